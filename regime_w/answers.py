r"""Finds the answer in a text and reads it exactly.

What a reasoning model thinks before ``</think>`` is no answer. The answer's position is that of the first
rule that applies:

1. After the last ``####``: its line, or the next if that is empty. The rest is ignored. Where the line is a
   heading (``#### Final Answer``, ``#### Step 2``), what it heads: see
   `regime_w.numbers.marker`.
2. In the last ``\boxed{}``, ``\fbox{}`` or ``<answer></answer>``.
3. After the last "answer is" that a number follows, or under the last heading "Final Answer".
4. The last number, unless it is a part of another, as in ``12:00``: see `regime_w.numbers.prose`.

Rules 1 to 3 take the answer only from a line that clearly gives one number (`read_line`).
Models are rewarded for the answer, so an ambiguous line gives none. Every step works on a window of
bounded length or scans the text once: time is linear in the text.
"""

import re
from collections.abc import Callable
from itertools import islice

from regime_w.numbers.blocks import BOX, HEADING, closing_brace, first_block
from regime_w.numbers.marker import MARKER, after_marker
from regime_w.numbers.markup import FACTORIAL, without_markup, without_thoughts
from regime_w.numbers.numerals import to_ascii
from regime_w.numbers.prose import SENTENCE_END, read_last_number, read_sentence
from regime_w.numbers.statements import (
    MAX_LINE,
    begins_with_number,
    has_hedge,
    is_in_words_or_doubt,
    last_match,
    read_gold_line,
    read_line,
)

_MAX_GOLD_BOXES = 100
"""A gold answer with more boxes is no solution."""

_BOX_OR_ELEMENT = re.compile(
    rf"{BOX.pattern}|<answer>(?=[^<]{{0,{MAX_LINE}}}</answer>)", re.IGNORECASE
)
_ANSWER_IS = re.compile(
    r"(?:\b|(?<=_))answer\b[*_ ]{0,3}(?:is|was|equals|would be|:|=)[*_: ]{0,4}(?:\n[ \t]{0,8}){0,3}"
    r"|(?<![^\n])[#*_ ]{0,8}(?:the )?final[ _]answer[*_: ]{0,8}\n\s{0,8}",
    re.IGNORECASE,
)
_EXPLANATION = re.compile(r"[,;(](?=\s*[A-Za-z])| (?:because|since|as|which|so) ")
_LEAD = re.compile(
    r"(?:(?:that|exactly|simply|just|only|therefore|thus|then|now|indeed) ){1,2}", re.IGNORECASE
)
_VARIABLES = re.compile(r"(?:[\s$(\[{]*+[A-Za-z](?:_\{\w{1,8}\}|\w){0,15}+\s?=)*+")
"""``x =`` or ``x = y =`` before the number of a sentence without markup."""
_MATHEMATICS = re.compile(
    r"[\s*_\"]*+(?:\$[^$0-9]{0,60}[0-9][^$]*\$|\\[(\[][^0-9]{0,60}[0-9]|\\[a-z]{1,20}\s?[{\[]|√)"
)
"""A value at the beginning of a sentence, rather than a variable."""
_MINUS_SIGN = re.compile(r"^(\s*)−\s+", re.MULTILINE)


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
    text = without_thoughts(text)
    # With a space behind it a hyphen may mark an item of a list; a minus sign does not.
    text = to_ascii(_MINUS_SIGN.sub(r"\1-", text) if "−" in text else text)
    if MARKER in text:
        return _read_marked(text, read_line)
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
        return _read_marked(text, read_gold_line)
    boxes = [box.end() for box in islice(BOX.finditer(text), _MAX_GOLD_BOXES + 1)]
    if boxes:
        golds = {read_gold_line(box) for box in {_up_to_closing_brace(text, end) for end in boxes}}
        return golds.pop() if len(golds) == 1 and len(boxes) <= _MAX_GOLD_BOXES else None
    lines = text.strip().splitlines()
    return read_gold_line(lines[0]) if len(lines) == 1 else None


def answers_agree(a: str | None, b: str | None) -> bool:
    """Whether two canonical answers are equal; None agrees with nothing, not even itself."""
    return a is not None and a == b


def _read_marked(text: str, read: Callable[[str], str | None]) -> str | None:
    """The answer after the last ``####``; under a heading what is stated there, never the last number."""
    marked = after_marker(text, HEADING)
    answer = read(marked.line)
    if answer is None and marked.is_final and read is read_line:
        answer = read_sentence(marked.line)
    if answer is None and marked.below:
        line = _explicit_answer("\n".join(marked.below))
        return None if line is None else read(line)
    return answer


def _explicit_answer(text: str) -> str | None:
    """The text in the last box or element, or else what is stated; None where there is neither."""
    found = last_match(_BOX_OR_ELEMENT, text)
    if found is None:
        return _stated(text)
    if found.group().endswith("{"):
        return _up_to_closing_brace(text, found.end())
    return text[found.end() : text.index("<", found.end())]


def _up_to_closing_brace(text: str, start: int) -> str:
    """A brace whose content begins at ``start``, with its marks; empty where it is not closed nearby."""
    end = closing_brace(text, start, MAX_LINE)
    return "" if end is None else text[start - 1 : end + 1]


def _stated(text: str) -> str | None:
    """What the last "answer is" gives; None where no number follows it, empty where none can be read."""
    stated = last_match(_ANSWER_IS, text)
    if stated is None:
        return None
    window = text[stated.end() : stated.end() + MAX_LINE]
    line = window.partition("\n")[0]
    if "\n" in stated.group():
        line = first_block([line for line in window.splitlines() if line.strip()] or [""])[0]
    sentence = SENTENCE_END.split(FACTORIAL.sub(" factorial", line), maxsplit=1)[0]
    sentence = _LEAD.sub("", without_markup(sentence), count=1)
    if is_in_words_or_doubt(sentence):
        return ""
    if not begins_with_number(_VARIABLES.sub("", sentence, count=1)):
        return "" if _MATHEMATICS.match(line) else None
    # An explanation is removed: "18, since 9 * 2 = 18" and "18 because …" become "18".
    return "" if has_hedge(sentence) else _EXPLANATION.split(sentence, maxsplit=1)[0]
