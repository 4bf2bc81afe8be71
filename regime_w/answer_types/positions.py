r"""Where a completion states its answer, whatever the answer's type.

The position is that of the first rule that applies: after the last ``####`` (see `regime_w.numbers.marker`), in
the last ``\boxed{}``, after the last "answer is". What a sentence denies or supposes is not stated: "the
answer is not A", "the incorrect option is A", "if the answer was A".
"""

import re

from regime_w.numbers.blocks import BOX, NUMBERED_HEADING, closing_brace
from regime_w.numbers.denials import denial, is_denied, is_supposed, says_instead
from regime_w.numbers.marker import MARKER, after_marker
from regime_w.numbers.statements import has_hedge, last_match

MAX_ANSWER_CHARS = 400
"""Longer statements are prose, and no answer."""

_ANSWER_IS = re.compile(
    r"(?:\b|(?<=_))(?:answer|option|choice)\b[*_ ]{0,3}(?:is|was|would be|:|=)[*_: ]{0,4}\n?",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r"[.!?,;:\n>|—–][*_\"'`$)\]}]*|\s-\s|\b(?:so|thus|therefore|hence|then|but|means)\b",
    re.IGNORECASE,
)
_MAX_CLAUSE = 100
_SUBJECT = re.compile(
    r"""
    (?: .*\b(?:the|my|our|your|its|choose|pick|select)\b )? [\W\d_]*+
    (?: (?:final|correct|right|best|better|true|only|actual|proper|valid|accurate|appropriate|suitable|single|most
        |likely|plausible|probable|remaining|chosen|selected|short|multiple|choice|answer) [\W_]+ ){0,4}
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
"""What stands before "answer" in a clause that states it: "the incorrect option" or "one choice" is another."""
_WORD = re.compile(r"\w+")
_MARKS = r"[*_\"'`$)\]}]"
# After a word of three letters or more: "St. Louis" goes on.
_SENTENCE_END = re.compile(
    rf"(?:(?<=[^\W\d_]{{3}})|(?<=[0-9)\]}}$*_\"'`]))[.!](?P<marks>{_MARKS}{{0,20}}+)(?:\s|\Z)"
)
_OPENING = {")": "(", "]": "[", "}": "{"}


def stated_answer(text: str, addition: re.Pattern[str] | None = None) -> str | None:
    """The text of the stated answer.

    Args:
        text: A completion or a solution.
        addition: Begins what is left out of a sentence that states the answer, if there is no doubt in it.

    Returns:
        A line; empty where an answer is announced and none follows, or more than an answer. None where
        no answer is stated.
    """
    if MARKER in text:
        return _marked_answer(text, addition)
    return _boxed_or_said(text, addition)


def only_line(text: str) -> str | None:
    """The text where it is one line of the length of an answer, without white space around it."""
    text = text.strip()
    return None if not text or len(text) > MAX_ANSWER_CHARS or len(text.splitlines()) > 1 else text


def last_line(text: str) -> str | None:
    """The last line that is not blank, where it has the length of an answer."""
    lines = text.rstrip()[-MAX_ANSWER_CHARS - 1 :].splitlines()
    return only_line(lines[-1]) if lines else None


def states_gold(text: str) -> bool:
    """Whether a gold answer has a place of its own in a solution: a ``####`` or a box."""
    return MARKER in text or BOX.search(text) is not None


def _marked_answer(text: str, addition: re.Pattern[str] | None) -> str:
    """What stands after the last ``####``; under a heading what is stated there."""
    marked = after_marker(text, NUMBERED_HEADING)
    if marked.below and not marked.line:
        return _boxed_or_said("\n".join([marked.heading, *marked.below]), addition) or ""
    line = (marked.line or marked.heading).strip()
    if len(line) > MAX_ANSWER_CHARS:
        return ""
    inner = _boxed_or_said(line, addition)
    return _without_outer_marks(line, text, text.rindex(MARKER)) if inner is None else inner


def _boxed_or_said(text: str, addition: re.Pattern[str] | None) -> str | None:
    boxed = _last_boxed(text)
    return _last_said(text, addition) if boxed is None else boxed


def _last_boxed(text: str) -> str | None:
    """What the last box holds that is not denied; empty where all are."""
    boxes = [*BOX.finditer(text)]
    for box in reversed(boxes):
        clause = text[_clause_start(text, box.start()) : box.start()]
        said = last_match(_ANSWER_IS, clause)
        if not is_denied(clause, "") and (not said or _is_stated(clause[: said.start()])):
            end = closing_brace(text, box.end(), MAX_ANSWER_CHARS + 1)
            # One that is not closed nearby is announced, and holds none.
            return "" if end is None else text[box.end() : end].strip()
    return "" if boxes else None


def _last_said(text: str, addition: re.Pattern[str] | None) -> str | None:
    """The sentence after the last "answer is" that states one; empty where a later one denies it, or all do."""
    denials: list[str] = []
    end = len(text)
    for found in reversed([*_ANSWER_IS.finditer(text)]):
        start, clause = found.end(), _clause_start(text, found.start())
        if _is_stated(text[clause : found.start()]):
            # "The answer is B. The incorrect option is A."
            line = text[start : min(end, start + MAX_ANSWER_CHARS)].partition("\n")[0]
            sentence = _without_outer_marks(_sentence(line), text, start)
            if not denial(sentence):
                if any(_is_contradicted(sentence, denied) for denied in denials):
                    return ""
                added = addition and addition.search(sentence)
                is_sure = added and not has_hedge(sentence[added.start() :])
                return sentence[: added.start()] if added and is_sure else sentence
            denials.append(sentence)
        end = clause
    return "" if denials else None


def _clause_start(text: str, end: int) -> int:
    """Where the clause begins that goes on at ``end``."""
    start = max(0, end - _MAX_CLAUSE)
    before = last_match(_CLAUSE_END, text[start:end])
    return start if before is None else start + before.end()


def _is_stated(clause: str) -> bool:
    """Whether what stands before "answer is" in its clause lets it state one."""
    return _SUBJECT.fullmatch(clause) is not None and not is_supposed(clause)


def _is_contradicted(said: str, denied: str) -> bool:
    """Whether a denial is of what was said, or says another thing instead."""
    words = [set(map(str.casefold, _WORD.findall(each))) for each in (said, denied)]
    return not words[0].isdisjoint(words[1]) or says_instead(denied)


def _sentence(line: str) -> str:
    """The first sentence of a line, without its full stop."""
    end = _SENTENCE_END.search(line)
    return (line if end is None else line[: end.start()] + end["marks"]).strip()


def _without_outer_marks(line: str, text: str, start: int) -> str:
    """A line without the marks at its end that were opened before ``start``: "**Answer: Paris**"."""
    before = text[max(0, start - _MAX_CLAUSE) : start].rpartition("\n")[2]
    while line and re.fullmatch(_MARKS, line[-1]) and _is_open(line[-1], before, line):
        line = line[:-1] if line[-1] in _OPENING else line.rstrip(line[-1])
    return line


def _is_open(mark: str, before: str, line: str) -> bool:
    """Whether a mark at the end of a line closes what was opened before the line."""
    opening = _OPENING.get(mark)
    if opening is None:
        return all(len(re.findall(rf"{re.escape(mark)}+", each)) % 2 for each in (before, line))
    return before.count(opening) > before.count(mark) and line.count(opening) < line.count(mark)
