r"""Exact values of arithmetic expressions such as ``3 * (4 + $1,000) / 2`` and ``20% * 50``.

Text enters, a fraction leaves. Never `eval`; what is not read as a whole has no value.
"""

import re
from fractions import Fraction

MAX_CHARS = 200
"""Longer expressions have no value; bounds the work and the size of numbers."""
MAX_BITS = 512
"""Intermediate results beyond this many bits have no value."""

NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
"""Regular expression of an unsigned number with or without thousands commas."""

_TOKEN = re.compile(
    rf"\s*(?:(?P<number>{NUMBER})|(?P<operator>[-+*/()%]|[xX×·÷]|\\times|\\cdot|\\div)|[$€£¥])\s*"
)
_SAME = dict.fromkeys(("x", "X", "×", "·", r"\times", r"\cdot"), "*") | {"÷": "/", r"\div": "/"}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}


def evaluate(expression: str) -> Fraction | None:
    r"""Evaluates an expression exactly, with the usual precedence, from left to right.

    Read are ``+ - * / x × · ÷ \times \cdot \div``, parentheses, a minus before an operand, ``%``
    after a number (a hundredth), thousands commas and decimals; currency signs are dropped.

    Returns:
        The value; None where the text is anything else, divides by zero or grows beyond bounds.
    """
    if len(expression) > MAX_CHARS:
        return None
    values: list[Fraction] = []
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
            values.append(Fraction(token["number"].replace(",", "")))
            expects_operand = False
        elif operator is None:  # a currency sign
            continue
        elif operator == "(" or (expects_operand and operator == "-"):
            if not expects_operand:
                return None
            operators.append("negate" if operator == "-" else "(")
        elif expects_operand:
            return None
        elif operator == "%":
            values[-1] /= 100
        else:
            closes = operator == ")"
            while operators and operators[-1] != "(":
                if not closes and _PRECEDENCE[operators[-1]] < _PRECEDENCE[operator]:
                    break
                if not _apply(operators.pop(), values):
                    return None
            if not closes:
                operators.append(operator)
                expects_operand = True
            elif operators:
                operators.pop()
            else:
                return None
    if expects_operand or "(" in operators:
        return None
    while operators:
        if not _apply(operators.pop(), values):
            return None
    return values[0]


def _apply(operator: str, values: list[Fraction]) -> bool:
    """Replaces an operator's operands by its result; False where there is none."""
    right = values.pop()
    if operator == "negate":
        values.append(-right)
        return True
    left = values.pop()
    if operator == "/":
        if right == 0:
            return False
        value = left / right
    else:
        value = (
            left + right if operator == "+" else left - right if operator == "-" else left * right
        )
    values.append(value)
    return max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS
