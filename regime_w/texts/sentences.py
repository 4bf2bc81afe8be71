"""Finds the sentence that gives an answer, without its full stop and marks that enclose more than the answer."""

import re
from collections import deque

_MAX_BEFORE = 100
"""The most characters before a sentence that are looked at."""

_MARKS = r"[*_\"'`$)\]}]"
# After a word, a full stop counts only if the word has three letters or more: "St. Louis" goes on.
_SENTENCE_END = re.compile(
    rf"(?:(?:(?<=[^\W\d_]{{3}})|(?<=[0-9)\]}}$*_\"'`]))(?P<stop>[.!])(?={_MARKS}{{0,20}}+(?:\s|\Z))|[。！])"
    rf"(?P<marks>{_MARKS}{{0,20}}+)"
)
_EMPHASIS = ("**", "__")
_OPENING = {")": "(", "]": "[", "}": "{"}


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match of a pattern in a text."""
    last = deque(pattern.finditer(text), maxlen=1)
    return last[0] if last else None


def first_sentence(line: str) -> tuple[str, str]:
    """The first sentence of a line, without its full stop, and the rest of the line."""
    end = _SENTENCE_END.search(line)
    if end is None:
        return line.strip(), ""
    # "5!" is a different answer from "5".
    stop = "!" if end["stop"] == "!" else ""
    return (line[: end.start()] + stop + end["marks"]).strip(), line[end.end() :]


def without_outer_marks(line: str, text: str, start: int) -> str:
    """A line without the marks at its end that were opened before ``start``: "**Answer: Paris**".

    Emphasis that begins right before ``start`` and ends within the line gets its opening marks back: "Answer: **Paris**,
    France".
    """
    before = text[max(0, start - _MAX_BEFORE) : start].rpartition("\n")[2]
    while line and re.fullmatch(_MARKS, line[-1]) and _is_open(line[-1], before, line):
        line = line[:-1] if line[-1] in _OPENING else line.rstrip(line[-1])
    opened = before.rstrip()[-2:]
    return opened + line if opened in _EMPHASIS and line.count(opened) % 2 else line


def _is_open(mark: str, before: str, line: str) -> bool:
    """Whether a mark at the end of a line closes one that was opened before the line."""
    opening = _OPENING.get(mark)
    if opening is None:
        return all(len(re.findall(rf"{re.escape(mark)}+", each)) % 2 for each in (before, line))
    return before.count(opening) > before.count(mark) and line.count(opening) < line.count(mark)
