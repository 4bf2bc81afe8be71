"""Reads the equations of a worked solution: their operands, their results, and whether they are true.

From a text to equations with exact numbers. The sides are numbers and operators; units, currency and
rates (``$5/hour * 3 hours = $15``) are dropped. Equations with variables, powers, roots, factorials or
times of day are ignored, since the rest of such a side would be judged as if it were all. Every step scans
the text once, so time is linear in it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from regime_w.numbers.arithmetic import MAX_CHARS, NUMBER, Exact, combine, evaluate, value_of_number
from regime_w.worked_steps.notation import clauses

MAX_EQUATIONS = 200
"""Equations of a text beyond this many are not read; worked solutions have a few dozen at most."""
_MAX_SIDE_TOKENS = 60
_MAX_UNIT_WORDS = 8
"""The most words of a unit between a number and what follows it."""

_TOKEN = re.compile(
    # Consecutive words are one token: most of a line is prose.
    r"\s*(?:(?P<words>[^\W\d_]++(?:[-'.]?\s?[^\W\d_]++)*+\.?)"
    # A minus is a sign if no operand stands before it: "5 -3" subtracts, "(-3", "* -3" do not.
    rf"|(?P<number>(?:-(?<![\w)%]-)(?<![\w)%]\s-))?(?:{NUMBER})(?:\s?%)?)"
    r"|(?P<equals>=)|(?P<operator>[-+*/])|(?P<open>[(])|(?P<close>[)])|(?P<other>\S))"
)
# A single letter is a variable, unless it is the sign of a unit or an article.
_VARIABLE = re.compile(r"(?![gmlLhscdaAI])[A-Za-z]")
# Words that may change the number before them, though they are dropped like units.
_SCALE = re.compile(r"(?i:(?:hundred|thousand|[mbtr]{1,2}illion|dozen|cent|variable)s?\.?)")
_PROPER_FRACTION = re.compile(r"1/[2-9]|[2-9]/1?[0-9]")
# A side that one of these cuts off is not read.
_UNREAD_BEFORE = frozenset("^!√∛±}")
_UNREAD_BEHIND = frozenset("^{√∛")


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
    equations: list[Equation] = []
    for clause in clauses(text):
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
    left, is_left_whole = _side(before[::-1], leftwards=True)
    left.reverse()
    behind = tokens[equals + 1 : equals + 1 + _MAX_SIDE_TOKENS]
    right, is_right_whole = _side(behind, leftwards=False)
    # Before any number is read: int() refuses 4300 digits and more.
    if len(left) < 2 or not right or sum(map(len, left)) > MAX_CHARS:
        return None
    operands = tuple([_as_written(part) for part in left if part[-1] in ".%0123456789"])
    if len(operands) < 2:
        return None
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
    # What is not read of a side may be what makes it true.
    result = _stated(right[:1]) if is_left_whole and is_right_whole else None
    return None if result is None else Equation(operands, result, holds=False)


def _side(tokens: Sequence[_Token], *, leftwards: bool) -> tuple[list[str], bool]:
    """Reads the expression next to an "=", away from it, as far as it reaches.

    Args:
        tokens: One side of the "=", nearest first.
        leftwards: Whether the tokens were reversed.

    Returns:
        The expression's parts, nearest first, and whether they are probably all of it. There are none if it
        holds a variable, or a sign that is not read cuts it off.
    """
    entering = "close" if leftwards else "open"
    unread = _UNREAD_BEFORE if leftwards else _UNREAD_BEHIND
    parts: list[str] = []
    num_complete = depth = 0
    expects_operand = is_whole = True
    words: list[str] = []  # just before the token
    goes_on = False  # beyond what was read, as in "revenue - 3 * 4"
    for index, (kind, text) in enumerate(tokens):
        if kind == "words":
            # A unit follows its number, so leftwards it is read before the number.
            words = text.split()
            goes_on = expects_operand
            if expects_operand is not leftwards or len(words) > _MAX_UNIT_WORDS:
                goes_on = goes_on or _joins(
                    words, tokens[max(0, index - 3) : index][::-1], tokens[index + 1 :]
                )
                break
            if any(map(_VARIABLE.fullmatch, words)):
                return [], False
            is_whole = is_whole and not any(map(_SCALE.fullmatch, words))
            continue
        goes_on = False
        if kind in ("number", entering) and expects_operand:
            depth += kind == entering
            expects_operand = kind == entering
        elif kind == "operator" and not expects_operand:
            expects_operand = True
        elif kind in ("open", "close") and not expects_operand and depth > 0:
            depth -= 1
        elif text in unread:
            return [], False
        else:
            goes_on = expects_operand or text in "!\\"
            if kind == "number":  # "2 3 * 4", "= 18 000", "= 1 and 1/3", but not "= 18 for 2 days"
                goes_on = not words or (words == ["and"] and _is_proper(tokens[index : index + 3]))
            break
        words = []
        parts.append(text)
        if depth == 0 and not expects_operand:
            num_complete = len(parts)
    return parts[:num_complete], is_whole and not goes_on


def _joins(words: Sequence[str], nearest: Sequence[_Token], beyond: Sequence[_Token]) -> bool:
    """Whether words join an expression to the tokens beyond them, as in "+ his 1" or "1 and 1/4"."""
    if len(beyond) > 1 and beyond[0][0] == "operator":  # a last one marks the item of a list
        return True
    is_number = bool(beyond) and beyond[0][0] == "number"
    return is_number and words == ["and"] and _is_proper(nearest)


def _is_proper(tokens: Sequence[_Token]) -> bool:
    return _PROPER_FRACTION.fullmatch("".join(text for _, text in tokens)) is not None


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
