"""Reads the equations of a worked solution: their operands, their results, and whether they are true.

From a text to equations with exact numbers. The sides are numbers and operators; units, currency and
rates (``$5/hour * 3 hours = $15``) are dropped, and equations with variables are ignored. Every step
scans the text once, so time is linear in it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from regime_w.numbers.arithmetic import MAX_CHARS, NUMBER, Exact, combine, evaluate, value_of_number
from regime_w.numbers.numerals import to_ascii

MAX_EQUATIONS = 200
"""Equations of a text beyond this many are not read; worked solutions have a few dozen at most."""
_MAX_SIDE_TOKENS = 60
_MAX_UNIT_WORDS = 8
"""The most words of a unit between a number and what follows it."""

# No equation crosses these; clauses without "=" need no further processing.
# (One character class in front lets the search skip from one candidate to the next.)
_CLAUSE_END = re.compile(r"[\n\r,;:!?.](?:(?<=[\n\r])|(?<=[,;:!?])(?<!\\.)\s|(?<=\.)\s(?=[A-Z]))")
# Each pattern comes with strings, at least one of which it needs to match: searching for these is cheaper.
_NORMALISING: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = tuple(
    (needs, re.compile(pattern), replacement)
    for needs, pattern, replacement in (
        (("<<",), r"<<[^<>\n]*>>", ""),  # GSM8K's calculator annotations
        # A whole number in front makes it a mixed number, as `regime_w.answers` reads it.
        (
            ("\\",),
            r"(?<![\d.,])([0-9]+) ?\\[dt]?frac\{([0-9]{1,40})\}\{([0-9]{1,40})\}",
            r"(\1+\2/\3)",
        ),
        (("\\",), r"\\[dt]?frac\{([^{}\n]{1,40})\}\{([^{}\n]{1,40})\}", r"((\1)/(\2))"),
        (("\\",), r"\\(?:text|mathrm|boxed|textbf|mathbf)\{([^{}\n]{0,40})\}", r" \1 "),
        (("\\", "×", "·", "⋅"), r"\\times|\\cdot|[×·⋅]", "*"),
        (("\\", "÷"), r"\\div|÷", "/"),
        (("multiplied by",), r"\bmultiplied by(?= [$€£¥\d(.])", "*"),
        (("divided by",), r"\bdivided by(?= [$€£¥\d(.])", "/"),
        (("times",), r"\btimes(?= [$€£¥\d(.])", "*"),
        (("x", "X"), r"(?<=[\d%)])[xX](?=[\d$€£¥(.])|(?<=[\w%)]) [xX] (?=[\d$€£¥(.])", "*"),
        ((" of ",), r"(?<=%) of (?=[$€£¥\d(.])|(?<=\d/\d) of (?=[$€£¥\d(.])", "*"),
        (tuple("\\$€£¥*_`~"), r"\\?[$€£¥]|\\[\[\]() ,;!]|[*]{2,}|[_`~]", " "),
        (("/",), r"/ ?(?=[A-Za-z])[A-Za-z]+", " "),  # the unit of a rate
        (("/",), r"\b([0-9]+) ([0-9]+/[0-9]+)(?![/0-9])", r"(\1+\2)"),
        (("[",), r"\[", "("),
        (("]",), r"\]", ")"),
        (("(",), r"(?<=[0-9])\((?=[0-9.(])|(?<=\))\((?=[0-9.(])", "*("),
    )
)
_TOKEN = re.compile(
    # Consecutive words are one token: most of a line is prose.
    r"\s*(?:(?P<words>[^\W\d_]++(?:[-'.]?\s?[^\W\d_]++)*+\.?)"
    # A minus is a sign if no operand stands before it: "5 -3" subtracts, "(-3", "* -3" do not.
    rf"|(?P<number>(?:-(?<![\w)%]-)(?<![\w)%]\s-))?(?:{NUMBER})(?:\s?%)?)"
    r"|(?P<equals>=)|(?P<operator>[-+*/])|(?P<open>[(])|(?P<close>[)])|(?P<other>\S))"
)
# A single letter is a variable, unless it is the sign of a unit or an article.
_VARIABLE = re.compile(r"(?![gmlLhscdaAI])[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Equation:
    """``operands → result`` as a text claims it."""

    operands: tuple[Exact, ...]
    """The numbers of the computed side, as written."""
    result: Exact
    """The result that the text states."""
    holds: bool
    """Whether it is right, exactly or rounded to its decimals (two or more)."""


_Token = tuple[str | None, str]
"""Kind (a group of `_TOKEN`) and text."""


def parse_equations(text: str) -> tuple[Equation, ...]:
    """Reads the equations with at least one operator, in the order of the text; never raises."""
    text = to_ascii(text)
    text = "\n".join(clause for clause in _CLAUSE_END.split(text) if "=" in clause)
    for needs, pattern, replacement in _NORMALISING:
        if any(piece in text for piece in needs):
            text = pattern.sub(replacement, text)
    equations: list[Equation] = []
    for clause in text.split("\n"):
        tokens = [(m.lastgroup, m[m.lastgroup or 0]) for m in _TOKEN.finditer(clause)]
        for index, (kind, _) in enumerate(tokens):
            if kind == "equals":
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
    # Before any number is read: int() refuses 4300 digits and more.
    if len(left) < 2 or not right or sum(map(len, left)) > MAX_CHARS:
        return None
    operands = tuple([_as_written(part) for part in left if part[-1] in ".%0123456789"])
    expected: Exact | None
    if len(left) == 3 and len(operands) == 2 and not any(part[-1] == "%" for part in left):
        expected = combine(operands[0], left[1], operands[1])  # by far the most frequent case
    else:
        expected = evaluate("".join(left))
    if expected is None:
        return None
    # "5 * 2 = 10 / 2 = 5" runs on: the number after "=" may be the result, or the whole side.
    for claimed in (right[:1], right):
        result = _stated(claimed)
        if result is not None and _agree(expected, result, claimed):
            return Equation(operands, result, holds=True)
    result = _stated(right[:1])
    return None if result is None else Equation(operands, result, holds=False)


def _side(tokens: Sequence[_Token], *, leftwards: bool) -> list[str]:
    """Reads the expression next to an "=", away from it, as far as it reaches.

    Args:
        tokens: One side of the "=", nearest first.
        leftwards: Whether the tokens were reversed.

    Returns:
        The expression's parts, nearest first; empty if there is none or it holds a variable.
    """
    entering = "close" if leftwards else "open"
    parts: list[str] = []
    num_complete = depth = 0
    expects_operand = True
    for kind, text in tokens:
        if kind == "words":
            # A unit follows its number, so leftwards it is read before the number.
            words = text.split()
            if expects_operand is not leftwards or len(words) > _MAX_UNIT_WORDS:
                break
            if any(map(_VARIABLE.fullmatch, words)):
                return []
            continue
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


def _as_written(part: str) -> Exact:
    """The value of a number; that of a percentage is the number before its sign."""
    sign = -1 if part[0] == "-" else 1
    return sign * value_of_number(part.strip("-% "))


def _stated(parts: Sequence[str]) -> Exact | None:
    """The value of what follows the "="; that of a percentage is the number before its sign."""
    if len(parts) == 1 and parts[0] != "(":
        return _as_written(parts[0]) if len(parts[0]) <= MAX_CHARS else None
    return evaluate("".join(parts))


def _agree(expected: Exact, stated: Exact, parts: Sequence[str]) -> bool:
    if expected == stated or len(parts) > 1:
        return expected == stated
    if parts[0].endswith("%"):
        expected *= 100
        if expected == stated:
            return True
    decimals = len(parts[0].rstrip("% ").partition(".")[2])
    tolerance = Fraction(1, 2 * int(10**decimals))
    return decimals >= 2 and -tolerance <= expected - stated <= tolerance
