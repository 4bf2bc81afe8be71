r"""Where a completion states its answer, whatever the answer's type.

The position is that of the first rule that applies: after the last ``####`` (its line, or the next where it is
empty or a heading such as ``Final Answer``), in the last ``\boxed{}``, after the last "answer is".
"""

import re

from regime_w.answers import MARKER
from regime_w.numbers.blocks import BOX, PROMPT_ECHO, closing_brace
from regime_w.numbers.statements import last_match

MAX_ANSWER_CHARS = 400
"""Longer statements are prose, and no answer."""

_ANSWER_IS = re.compile(
    r"(?:\b|(?<=_))(?:answer|option|choice)\b[*_ ]{0,3}(?:is|was|would be|:|=)[*_: ]{0,4}\n?",
    re.IGNORECASE,
)
# After a word of three letters or more: "St. Louis" goes on.
_SENTENCE_END = re.compile(
    r"(?:(?<=[^\W\d_]{3})|(?<=[0-9)\]}$*_\"'`]))[.!](?=[*_\"'`$)\]}]{0,20}+(?:\s|\Z))"
)
_HEADING = re.compile(
    r"[\s*_:]*+(?:the\s++|my\s++)?(?:final[\s_]++)?(?:answer|result)(?:\s++is)?[\s*_:.]*+",
    re.IGNORECASE,
)


def stated_answer(text: str) -> str | None:
    """The text of the stated answer.

    Returns:
        A line; empty where an answer is announced and none follows, or more than an answer. None where
        no answer is stated.
    """
    before, marker, tail = text.rpartition(MARKER)
    if marker:
        # A repeated prompt ("in the format '#### 42'") is not an answer.
        line = "" if PROMPT_ECHO.search(before[-40:]) else _marked_line(tail)
        inner = _boxed_or_said(line)
        return line if inner is None else inner
    return _boxed_or_said(text)


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


def _marked_line(tail: str) -> str:
    lines = tail.splitlines()
    if lines and lines[0].strip(" \t*_:") and not _HEADING.fullmatch(lines[0][:MAX_ANSWER_CHARS]):
        line = lines[0].strip()
    elif lines and lines[0].strip(" \t*_:"):
        line = next((found for each in lines[1:] if (found := each.strip())), "")
    else:
        line = lines[1].strip() if len(lines) > 1 else ""
    return line if len(line) <= MAX_ANSWER_CHARS else ""


def _boxed_or_said(text: str) -> str | None:
    box = last_match(BOX, text)
    if box is not None:
        end = closing_brace(text, box.end(), MAX_ANSWER_CHARS + 1)
        # One that is not closed nearby is announced, and holds none.
        return "" if end is None else text[box.end() : end].strip()
    said = last_match(_ANSWER_IS, text)
    if said is None:
        return None
    line = text[said.end() : said.end() + MAX_ANSWER_CHARS].partition("\n")[0]
    return _SENTENCE_END.split(line, maxsplit=1)[0].strip()
