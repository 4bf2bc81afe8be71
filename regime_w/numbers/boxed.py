r"""Reads what a ``\boxed{}`` holds, together with its surroundings: ``-\boxed{5}`` is -5, ``2\boxed{5}`` gives none.

From a text and the beginning of a box to the text of its number.
"""

import re

from regime_w.numbers.continuations import is_continued
from regime_w.numbers.statements import MAX_LINE, read_line
from regime_w.texts.boxes import are_alternatives, content
from regime_w.texts.denials import has_no_answer, is_denied, is_one_of_several
from regime_w.texts.markup import without_markup

_CONTEXT = 120
"""The most characters before a box, and behind it, that are looked at."""

_OTHER_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{[^{}]*\}")
_FACTOR_BEFORE = re.compile(
    r"""
    (?: [0-9] [:.,']? | (?<![^\W_]) [A-Za-z]                  # 2\boxed{5}, x\boxed{5}
      | [\w)\]}] - [$({]* | [\w)\]}$] \s* (?:[<>]=?|[≤≥≠]) \s* [$({]*
      | (?: [/×÷·±√πθ] | (?<![*\w:])\* | [\w)\]}] \s* \+ | [0-9}] \s* - | [\^_] \{?
        | \\(?:[lg]eq?(?:slant)?|[lg]t|neq?) | \\(?:times|cdot|div|pm|pi|theta|ln|log|sin|cos|tan) | \\[dtc]?frac\s?(?:\{[^{}]*\})?\{
        | \\?sqrt \s? (?:\[[0-9]+\])? [({]? | \b(?:square|cube)\ root\ of | \b(?:negative|minus|times|plus) ) [\s$({]*
    ) \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MINUS_BEFORE = re.compile(r"(?:(?<![\w)\]}-])-[$({]*|(?:[=$(:]|\b(?:is|equals))\s*-[\s$({]*)\Z")
_OPERATOR_BEHIND = re.compile(
    r"(?:[-+*/×÷·]|\\(?:times|cdot|div)\b|(?:or|to|plus|minus|times)\s)[\s$]*[0-9\\]"
)


def number_in_box(text: str, box: re.Match[str]) -> str:
    r"""The braces of a box with the sign before them.

    Args:
        text: Holds the box.
        box: The beginning of the box, up to its opening brace.

    Returns:
        These braces; empty if the box is not closed nearby, if its surroundings make another number of it
        (``2\\boxed{5}``, ``\\boxed{5} million``), or if it is denied (``not \\boxed{5}``).
    """
    held = content(text, box, MAX_LINE)
    if held is None:
        return ""
    inner, end = held
    before = text[max(0, box.start() - _CONTEXT) : box.start()].rpartition("\n")[2]
    behind = text[end : end + _CONTEXT].partition("\n")[0]
    before = _OTHER_BOX.sub("}", before)
    # A digit stands in for the box, so that markup can be told from operators.
    before = without_markup(before + "0")[:-1]
    behind = without_markup("0" + behind)[1:]
    outside = behind.lstrip(" $)]}")
    if (
        _FACTOR_BEFORE.search(before)
        or behind.startswith("!")
        or _OPERATOR_BEHIND.match(outside)
        or is_continued(outside, 0)
        or is_denied(before, behind)
        or is_one_of_several(before)
        or has_no_answer(before)
    ):
        return ""
    return f"{{{'-' if _MINUS_BEFORE.search(before) else ''}{inner}}}"


def are_rivals(text: str, first: re.Match[str], second: re.Match[str]) -> bool:
    """Whether two boxes hold different numbers, and the second may only be an alternative to the first."""
    held = content(text, first, MAX_LINE)
    if held is None or not are_alternatives(text, held[1], second.start()):
        return False
    # Beside another box, a box may give no number by itself: "\boxed{3} or \boxed{5}".
    values = {
        read_line(number_in_box(text, first) or held[0]),
        read_line(number_in_box(text, second)),
    }
    return None not in values and len(values) == 2
