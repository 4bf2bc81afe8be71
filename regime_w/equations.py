"""The equations of a worked solution: what was computed, from what, and whether it is true.

Text enters, equations with exact numbers leave. Read are sides that are numbers and operators, with
units, currency and rates (``$5/hour * 3 hours = $15``) dropped; what holds a variable is left out.
Every step scans the text once, so time is linear in it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from regime_w.arithmetic import NUMBER, evaluate
from regime_w.numerals import to_ascii

MAX_EQUATIONS = 200
"""Equations of a text past these are not read; worked solutions hold a few dozen at most."""
_MAX_SIDE_TOKENS = 60
_MAX_UNIT_WORDS = 8
"""Words that may stand as a unit between a number and what follows it."""

_NORMALISING: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"<<[^<>\n]*>>", ""),  # GSM8K's calculator annotations
        (r"\\[dt]?frac\{([^{}\n]{1,40})\}\{([^{}\n]{1,40})\}", r"((\1)/(\2))"),
        (r"\\(?:text|mathrm|boxed|textbf|mathbf)\{([^{}\n]{0,40})\}", r" \1 "),
        (r"\\times|\\cdot|[×·⋅]|\b(?:multiplied by|times)(?= [$€£¥\d(.])", "*"),
        (r"\\div|÷|\bdivided by(?= [$€£¥\d(.])", "/"),
        (r"(?<=[\d%)])[xX](?=[\d$€£¥(.])|(?<=[\w%)]) [xX] (?=[\d$€£¥(.])", "*"),
        (r"(?<=%) of (?=[$€£¥\d(.])|(?<=\d/\d) of (?=[$€£¥\d(.])", "*"),
        (r"\\?[$€£¥]|\\[\[\]() ,;!]|[*]{2,}|[_`~]", " "),
        (r"/ ?(?=[A-Za-z])[A-Za-z]+", " "),  # the unit of a rate
        (r"\b([0-9]+) ([0-9]+/[0-9]+)(?![/0-9])", r"(\1+\2)"),
        (r"\[", "("),
        (r"\]", ")"),
        (r"(?<=[0-9])\((?=[0-9.(])|(?<=\))\((?=[0-9.(])", "*("),
    )
)
_TOKEN = re.compile(
    # A minus is a sign where no operand stands before it: "5 -3" subtracts, "(-3", "* -3" do not.
    rf"(?P<number>(?:(?<![\w)\]%])(?<![\w)\]%]\s)-)?(?:{NUMBER})\s?%?)"
    r"|(?P<equals>=)|(?P<operator>[-+*/])|(?P<open>[(])|(?P<close>[)])"
    r"|(?P<word>[^\W\d_]+(?:[-'.][^\W\d_]+)*\.?)|(?P<other>\S)"
)
# A single letter is a variable, unless it is the sign of a unit or an article.
_VARIABLE = re.compile(r"(?![gmlLhscdaAI])[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Equation:
    """``operands → result`` as a text claims it."""

    operands: tuple[Fraction, ...]
    """The numbers of the computed side, as written."""
    result: Fraction
    """What the text says that they come to."""
    holds: bool
    """Whether they do, exactly or rounded to the decimals (two or more) that are written."""


class _Token(NamedTuple):
    kind: str
    text: str


def parse_equations(text: str) -> tuple[Equation, ...]:
    """Reads the equations with at least one operator, in the order of the text; never raises."""
    text = to_ascii(text)
    for pattern, replacement in _NORMALISING:
        text = pattern.sub(replacement, text)
    equations: list[Equation] = []
    for line in text.splitlines():
        if "=" not in line:
            continue
        tokens = [_Token(str(m.lastgroup), m.group().strip()) for m in _TOKEN.finditer(line)]
        for index, token in enumerate(tokens):
            if token.kind == "equals":
                equation = _equation(tokens, index)
                if equation is not None:
                    equations.append(equation)
                if len(equations) == MAX_EQUATIONS:
                    return tuple(equations)
    return tuple(equations)


def _equation(tokens: Sequence[_Token], equals: int) -> Equation | None:
    before = tokens[max(0, equals - _MAX_SIDE_TOKENS) : equals]
    left = _side(before[::-1], leftwards=True)[::-1]
    right = _side(tokens[equals + 1 : equals + 1 + _MAX_SIDE_TOKENS], leftwards=False)
    expected = evaluate("".join(left)) if len(left) > 1 else None
    if expected is None or not right:
        return None
    operands = tuple(
        Fraction(re.sub("[,% ]", "", part)) for part in left if part[-1] in ".%0123456789"
    )
    # "5 * 2 = 10 / 2 = 5" runs on: the number after "=" may be the result, or the whole side.
    for claimed in (right[:1], right):
        result = _stated(claimed)
        if result is not None and _agree(expected, result, claimed):
            return Equation(operands, result, holds=True)
    result = _stated(right[:1])
    return None if result is None else Equation(operands, result, holds=False)


def _side(tokens: Sequence[_Token], *, leftwards: bool) -> list[str]:
    """Reads the expression next to an "=", away from it, for as long as it goes on.

    Args:
        tokens: One side of the "=", nearest first.
        leftwards: Whether they were turned round.

    Returns:
        The expression's parts, nearest first; empty where there is none or it holds a variable.
    """
    entering = "close" if leftwards else "open"
    parts: list[str] = []
    num_complete = depth = num_words = 0
    expects_operand = True
    for kind, text in tokens:
        if kind == "word":
            # A unit follows its number: it comes before the number in reading leftwards.
            num_words += 1
            if expects_operand is not leftwards or num_words > _MAX_UNIT_WORDS:
                break
            if _VARIABLE.fullmatch(text):
                return []
            continue
        num_words = 0
        if kind in ("number", entering) and expects_operand:
            depth += kind == entering
            expects_operand = kind == entering
        elif kind == "operator" and not expects_operand:
            expects_operand = True
        elif kind in ("open", "close") and not expects_operand and depth > 0:
            depth -= 1
        else:
            break
        parts.append(text)
        if depth == 0 and not expects_operand:
            num_complete = len(parts)
    return parts[:num_complete]


def _stated(parts: Sequence[str]) -> Fraction | None:
    """The value of what follows the "=", a percentage as the number before its sign."""
    value = evaluate("".join(parts))
    is_percentage = len(parts) == 1 and parts[0].endswith("%")
    return value if value is None or not is_percentage else value * 100


def _agree(expected: Fraction, stated: Fraction, parts: Sequence[str]) -> bool:
    if expected == stated or len(parts) > 1:
        return expected == stated
    if parts[0].endswith("%"):
        expected *= 100
    decimals = len(parts[0].rstrip("% ").partition(".")[2])
    rounding = Fraction(1, 2 * 10**decimals) if decimals >= 2 else 0
    return abs(expected - stated) <= rounding
