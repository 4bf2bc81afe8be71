r"""Exact values of arithmetic expressions such as ``3 * (4 + $1,000) / 2`` and ``20% * 50``.

From a text to a fraction. It never uses `eval`; an expression that cannot be read completely has no value.
"""

import re
from fractions import Fraction

MAX_CHARS = 200
"""Longer expressions have no value; this bounds the work and the size of numbers."""
MAX_BITS = 512
"""Intermediate results beyond this many bits have no value."""

Exact = int | Fraction
"""A value without rounding. Whole numbers stay `int`, which is several times faster."""

NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
"""Regular expression of an unsigned number with or without thousands commas."""

_TOKEN = re.compile(
    rf"\s*(?:(?P<number>{NUMBER})|(?P<operator>[-+*/()%]|[xX×·÷]|\\times|\\cdot|\\div)|[$€£¥])\s*"
)
_SAME = dict.fromkeys(("x", "X", "×", "·", r"\times", r"\cdot"), "*") | {"÷": "/", r"\div": "/"}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}


def value_of_number(number: str) -> Exact:
    """The value of a text that matches `NUMBER`."""
    number = number.replace(",", "")
    return int(number) if number.isdigit() else Fraction(number)


def evaluate(expression: str) -> Exact | None:
    r"""Evaluates an expression exactly, with the usual precedence, from left to right.

    It reads ``+ - * / x × · ÷ \times \cdot \div``, parentheses, a minus before an operand, ``%``
    after a number (a hundredth), thousands commas and decimals; currency signs are dropped.

    Returns:
        The value; None if the text is anything else, divides by zero or exceeds the bounds.
    """
    if len(expression) > MAX_CHARS:
        return None
    values: list[Exact] = []
    operators: list[str] = []
    expects_operand = True
    position = 0
    while position < len(expression):
        token = _TOKEN.match(expression, position)
        if token is None:
            return None
        position = token.end()
        operator = _SAME.get(token["operator"], token["operator"])
        if token["number"] is not None:
            if not expects_operand:
                return None
            values.append(value_of_number(token["number"]))
            expects_operand = False
        elif operator is None:  # a currency sign
            continue
        elif operator == "(" or (expects_operand and operator == "-"):
            if not expects_operand:
                return None
            operators.append("negate" if operator == "-" else "(")
        elif expects_operand or not _reduce(operator, operators, values):
            return None
        else:
            expects_operand = operator not in "%)"
    if expects_operand or "(" in operators:
        return None
    while operators:
        if not _apply(operators.pop(), values):
            return None
    return values[0]


def _reduce(operator: str, operators: list[str], values: list[Exact]) -> bool:
    """Applies the operators that bind before a ``%``, a ``)`` or a binary operator, and pushes a binary operator.

    Returns False if there is no value, or no parenthesis to close.
    """
    if operator == "%":
        values[-1] = Fraction(values[-1], 100)
        return True
    closes = operator == ")"
    while operators and operators[-1] != "(":
        if not closes and _PRECEDENCE[operators[-1]] < _PRECEDENCE[operator]:
            break
        if not _apply(operators.pop(), values):
            return False
    if not closes:
        operators.append(operator)
    elif operators:
        operators.pop()
    else:
        return False
    return True


def _apply(operator: str, values: list[Exact]) -> bool:
    """Replaces an operator's operands by its result; returns False if there is no result."""
    right = values.pop()
    value = -right if operator == "negate" else combine(values.pop(), operator, right)
    if value is None:
        return False
    values.append(value)
    return True


def combine(left: Exact, operator: str, right: Exact) -> Exact | None:
    """The result of ``+``, ``-``, ``*`` or ``/``; None if there is none within bounds."""
    value: Exact
    if operator == "+":
        value = left + right
    elif operator == "-":
        value = left - right
    elif operator == "*":
        value = left * right
    elif right == 0:
        return None
    else:
        value = Fraction(left, right)
    if value.denominator == 1:
        value = value.numerator
    too_big = max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS
    return None if too_big else value
