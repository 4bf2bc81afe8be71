r"""Rewrites inequalities joined by "or", and sets of solutions, in forms that math-verify compares.

From a line of cleaned LaTeX to another line: ``x < -1 or x > 2`` is ``(-\infty, -1) \cup (2, \infty)``, and ``\{x | x > 2\}``
is ``x > 2``.
"""

import re

_OPERATOR = r"(?:<|>|\\(?:le|leq|ge|geq|lt|gt)(?![A-Za-z]))"
_VALUE = r"[^<>=,;|]{1,60}?"
_ONE_SIDE = re.compile(rf"(?P<name>[a-z])\s*(?P<operator>{_OPERATOR})\s*(?P<value>{_VALUE})")
_ONE_SIDE_TURNED = re.compile(rf"(?P<value>{_VALUE})\s*(?P<operator>{_OPERATOR})\s*(?P<name>[a-z])")
_TWO_SIDES = re.compile(
    rf"(?P<low>{_VALUE})\s*(?P<first>{_OPERATOR})\s*(?P<name>[a-z])\s*(?P<second>{_OPERATOR})\s*(?P<high>{_VALUE})"
)
_OR = re.compile(
    r"\s*,?\s*(?:\\(?:text|mbox|mathrm)\s*\{\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z]))\s*"
)
_SET = re.compile(
    r"\\?\{\s*(?P<name>[a-z])\s*(?:\\in\s*\\(?:mathbb|mathbf)\s*\{?R\}?|\\in\s*\\R)?\s*(?:\\mid(?![A-Za-z])|[|:])\s*"
    r"(?P<condition>.{1,200}?)\s*\\?\}"
)


def joined(text: str) -> str:
    r"""A line without the set around a condition, in which "or" between inequalities of one variable is ``\cup``.

    Any other line is returned as it is.
    """
    found = _SET.fullmatch(text)
    condition = found["condition"] if found else text
    intervals = [_interval(part.strip()) for part in _OR.split(condition)]
    names = {interval[0] if interval else None for interval in intervals}
    if None in names or len(names) > 1 or (found and found["name"] not in names):
        return text
    if len(intervals) == 1:
        return condition
    return r" \cup ".join(interval for _, interval in filter(None, intervals))


def _interval(text: str) -> tuple[str, str] | None:
    """The variable of an inequality and the interval that it stands for; None for any other text."""
    both = _TWO_SIDES.fullmatch(text)
    if both:
        directions = {_is_less(both["first"]), _is_less(both["second"])}
        low, high, first, second = both.group("low", "high", "first", "second")
        if directions == {False}:
            low, high, first, second = high, low, second, first
        left, right = ("(" if _is_strict(first) else "["), (")" if _is_strict(second) else "]")
        return (both["name"], f"{left}{low}, {high}{right}") if len(directions) == 1 else None
    one, turned = _ONE_SIDE.fullmatch(text), _ONE_SIDE_TURNED.fullmatch(text)
    found = one or turned
    if found is None:
        return None
    value, is_strict = found["value"], _is_strict(found["operator"])
    if _is_less(found["operator"]) == (one is not None):
        return found["name"], rf"(-\infty, {value}{')' if is_strict else ']'}"
    return found["name"], rf"{'(' if is_strict else '['}{value}, \infty)"


def _is_less(operator: str) -> bool:
    return operator.startswith(("<", r"\l"))


def _is_strict(operator: str) -> bool:
    return operator in ("<", ">", r"\lt", r"\gt")
