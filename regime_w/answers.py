r"""Finds the answer in a text and reads it exactly.

The answer's position is that of the first rule that applies:

1. After the last ``####``: its line, or the next if that is empty. The rest is ignored. Where the line is a
   heading (``#### Final Answer``, ``#### Step 2``), what it heads: see `_under_heading`.
2. In the last ``\boxed{}`` or ``\fbox{}``.
3. After the last "answer is" that a number follows.
4. The last number, unless it is a part of another, as in ``12:00``.

Rules 1 to 3 take the answer only from a line that clearly gives one number (`read_line`).
Models are rewarded for the answer, so an ambiguous line gives none. Every step works on a window of
bounded length or scans the text once: time is linear in the text.
"""

import re
from collections.abc import Sequence

from regime_w.numbers.markup import without_markup
from regime_w.numbers.numerals import to_ascii
from regime_w.numbers.statements import (
    MAX_LINE,
    begins_with_number,
    has_hedge,
    last_match,
    read_last_number,
    read_line,
)

MARKER = "####"
"""Stands before the answer at the end of a solution, as in GSM8K."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*+\{")
_ANSWER_IS = re.compile(
    r"(?:\b|(?<=_))answer\b[*_ ]{0,3}(?:is|was|equals|would be|:|=)[*_: ]{0,4}\n?", re.IGNORECASE
)
# Marks that close a quotation, emphasis, mathematics or an element may follow the full stop.
_SENTENCE_END = re.compile(r"[.!](?=(?:[*_\"'`$)\]}]|\\[)\]]|</[A-Za-z]{1,10}>){0,20}+(?:\s|\Z))")
_EXPLANATION = re.compile(r"[,;(](?=\s*[A-Za-z])| (?:because|since|as|which|so) ")
_VARIABLES = re.compile(r"(?:that )?(?:[\s$(\[{]*+[A-Za-z](?:_\{\w{1,8}\}|\w){0,15}+\s?=)*+")
"""``x =`` or ``x = y =`` before the number of a sentence without markup."""
_PROMPT_ECHO = re.compile(r"(?:format|end with)\s*[:*]*\s*['\"`]\s*\Z", re.IGNORECASE)

_HEADING = re.compile(
    r"[^0-9]+|[\s*_]*+(?:step|part|case|phase|stage|section|method|approach|option|example|problem"
    r"|question)\s*+#?[0-9]++\b.*|[\s*_]*+[0-9]{1,2}+[.)]\s++[A-Za-z].*",
    re.IGNORECASE,
)
_ANSWER_HEADING = re.compile(
    r"[\s*_:]*+(?:the\s++|my\s++)?(?:final[\s_]++)?(?:answer|result|conclusion|(?P<solution>solution))"
    r"(?:\s++is)?[\s*_:.]*+",
    re.IGNORECASE,
)


def extract_answer(text: str) -> str | None:
    r"""Extracts the canonical numeric answer of a completion.

    Never raises, never evaluates; text that cannot be read exactly gives no answer.

    Example:
        >>> extract_answer("9 * 2 = 18\n#### $1,018.00")
        '1018'
        >>> extract_answer("#### 18 or 26") is None
        True

    Args:
        text: Completion without its prompt (which itself says ``#### 42``).

    Returns:
        The answer in the form of `regime_w.numbers.numerals.canonical`, or None if there is none.
    """
    text = to_ascii(text)
    before, marker, tail = text.rpartition(MARKER)
    if marker:
        return _read_marked(before, tail)
    line = _explicit_answer(text)
    return read_last_number(text) if line is None else read_line(line)


def extract_gold(text: str) -> str | None:
    r"""Extracts the canonical answer of a gold answer: a solution, or the number alone.

    Unlike a completion's, a gold answer is never taken from prose: a text without ``####`` and ``\boxed{}``
    must be one number, and boxes must agree.

    Example:
        >>> extract_gold("9 * 2 = 18\n#### 18"), extract_gold("$1,018.00"), extract_gold("12:00")
        ('18', '1018', None)

    Args:
        text: A solution that ends in ``#### 18``, one with ``\boxed{18}``, or ``18``.

    Returns:
        As `extract_answer`.
    """
    text = to_ascii(text)
    if MARKER in text:
        return extract_answer(text)
    gold: str | None = None
    for box in _BOX.finditer(text):
        answer = read_line(_up_to_closing_brace(text, box.end()))
        if answer is None or gold not in (None, answer):
            return None
        gold = answer
    if gold is not None:
        return gold
    lines = text.strip().splitlines()
    return read_line(lines[0]) if len(lines) == 1 else None


def answers_agree(a: str | None, b: str | None) -> bool:
    """Whether two canonical answers are equal; None agrees with nothing, not even itself."""
    return a is not None and a == b


def _read_marked(before: str, tail: str) -> str | None:
    # A repeated prompt ("in the format '#### 42'") is not an answer.
    if _PROMPT_ECHO.search(before[-40:]):
        return None
    lines = [*tail.splitlines(), "", ""]
    if not lines[0].strip(" \t*_:"):
        return read_line(lines[1])
    if _HEADING.fullmatch(lines[0][:MAX_LINE]):
        return _under_heading(lines[0], [line for line in lines[1:] if line.strip()])
    return read_line(lines[0])


def _under_heading(heading: str, lines: Sequence[str]) -> str | None:
    """The answer under a Markdown heading that ``####`` begins, never the last number.

    The first line where the heading announces an answer (of a solution: where it is the only line), or what a
    box or an "answer is" gives.
    """
    announced = _ANSWER_HEADING.fullmatch(heading[:MAX_LINE])
    if announced and lines and (len(lines) == 1 or not announced["solution"]):
        answer = read_line(lines[0])
        if answer is not None:
            return answer
    line = _explicit_answer("\n".join(lines))
    return None if line is None else read_line(line)


def _explicit_answer(text: str) -> str | None:
    """The text in the last box, or else after the last "answer is"; None where there is neither."""
    box = last_match(_BOX, text)
    return _stated(text) if box is None else _up_to_closing_brace(text, box.end())


def _up_to_closing_brace(text: str, start: int) -> str:
    """What is in a brace whose content begins at ``start``; empty where it is not closed nearby."""
    depth = 1
    for position, char in enumerate(text[start : start + MAX_LINE], start):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[start:position]
    return ""


def _stated(text: str) -> str | None:
    """What the last "answer is" gives; None where no number follows it, empty where it is in doubt."""
    stated = last_match(_ANSWER_IS, text)
    if stated is None:
        return None
    line = text[stated.end() : stated.end() + MAX_LINE].partition("\n")[0]
    sentence = without_markup(_SENTENCE_END.split(line, maxsplit=1)[0])
    if not begins_with_number(_VARIABLES.sub("", sentence, count=1)):
        return None
    # An explanation is removed: "18, since 9 * 2 = 18" and "18 because …" become "18".
    return "" if has_hedge(sentence) else _EXPLANATION.split(sentence, maxsplit=1)[0]
