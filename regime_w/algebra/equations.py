r"""Equations in an answer: which value each states for which variable, and which other answers they equal.

An equation with a variable alone on a side is an assignment and states a value: ``x = 3``, ``3 = x``, ``f(x) = 2x``,
``AB = 5``. So does an equation whose sides are all equal: ``2 + 3 = 5``, and ``x = 6/2 = 3`` states 3 since ``6/2`` is
3. Any other equation, such as ``2x = 3`` or ``7 = 3``, equals only equations.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from regime_w.algebra.latex import is_closed, split

_Equal = Callable[[str, str], bool]

_LETTER = (
    r"(?:[A-Za-z]|\\(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau"
    r"|upsilon|phi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega)(?![A-Za-z])|\\ell(?![A-Za-z])"
    r"|\\(?:vec|hat|bar|tilde|overline)\s?(?:\{[A-Za-z]{1,3}\}|[A-Za-z]))"
)
_INDEXED = rf"{_LETTER}'*(?:_(?:[A-Za-z0-9]|\{{[A-Za-z0-9, ]{{1,9}}\}}))?'*"
# Behind these letters, brackets hold an argument; behind others, such as x, they hold a factor.
_FUNCTION = (
    r"(?:[A-Zf-hpqr-w]|\\(?:phi|psi|sigma|tau))'*(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]{1,9}\}))?'*"
    r"(?:\^\{?-1\}?)?\s?\([^()=]{1,40}\)"
)
# A product is seldom written in capitals, and a word is not a product: "AB = 5", "Area = 5".
_NAME = r"(?:\\(?:angle|triangle)\s?)?[A-Z]{1,4}|(?!sqrt|sinh|cosh|tanh)[A-Za-z][a-z]{3,}"
_VARIABLE = re.compile(rf"{_INDEXED}|{_FUNCTION}|{_NAME}")
_VARIABLES = re.compile(rf"\(\s*{_INDEXED}(?:\s*,\s*{_INDEXED})+\s*\)")
_SUBSCRIPT = re.compile(r"_\s?\{[^{}]*\}")
_RELATION = re.compile(r"[<>]|\\(?:[lg]eq?|[lg]t|neq?|in|subset|equiv|approx|sim)(?![A-Za-z])")
_BRACKETS = (("(", ")"), ("{", "}"), ("[", "]"), (r"\{", r"\}"))
_LINES = re.compile(r"\\begin\{(cases|aligned|align\*?|gathered)\}(.*)\\end\{\1\}")
_IMPOSSIBLE = "1 = 0"


@dataclass(frozen=True, slots=True)
class _Equation:
    """One equation of an answer."""

    variable: str | None
    """The variable that a value is assigned to; None if no side is a variable."""
    sides: tuple[str, ...]
    """The sides other than the variable; a single side without a variable is a text that is not understood."""

    @property
    def is_understood(self) -> bool:
        """Whether its sides are known."""
        return self.variable is not None or len(self.sides) > 1

    @property
    def latex(self) -> str:
        """The equation as math-verify reads it."""
        return " = ".join(self.sides if self.variable is None else (self.variable, self.sides[-1]))

    def value(self, equal: _Equal) -> str | None:
        """The value that it states; None if it states none."""
        *others, last = self.sides
        return last if self.is_understood and all(equal(side, last) for side in others) else None


def has_equation(text: str) -> bool:
    """Whether a text has an equality sign outside of indices, such as a sum's."""
    return "=" in _SUBSCRIPT.sub("", text)


def parts(text: str) -> list[str]:
    """What must be readable before a text with equations can be compared: assigned values, and other equations."""
    found = _equations(text)
    return [side for each in found for side in (each.sides if each.variable else (each.latex,))]


def are_equivalent(answer: str, gold: str, equal: _Equal, verify: _Equal) -> bool:
    """Whether two texts, of which at least one has an equation, are equal.

    Args:
        answer: Compared with the gold answer.
        gold: The gold answer.
        equal: Whether a side of an equation equals a text without one, or a side of another equation.
        verify: Whether math-verify finds two equations equal.
    """
    both = _equations(answer), _equations(gold)
    first, second = both
    if first and second:
        if _one_variable(first) and _one_variable(first) == _one_variable(second):
            values = [_values(each, equal) for each in both]
            return None not in values and equal(str(values[0]), str(values[1]))
        return _match(_expanded(first), _expanded(second), equal, verify)
    if first:
        said = _said(first, gold, equal)
        return said is not None and equal(said, gold)
    said = _said(second, answer, equal)
    return said is not None and equal(answer, said)


def _equations(text: str) -> list[_Equation]:
    """The equations that a text lists: two in ``x = 1, 2``, none in a text without an equality sign."""
    if not has_equation(text):
        return []
    text = _without_brackets(text)
    found: list[_Equation] = []
    for part in split(text, ",;"):
        sides = tuple(split(part, "="))
        if len(sides) > 1 and all(sides) and not any(map(has_equation, sides)):
            found.append(_equation(sides))
        elif len(sides) > 1 or not found or found[-1].variable is None or _RELATION.search(part):
            return [_Equation(None, (text,))]
        else:
            found.append(replace(found[-1], sides=sides))
    return found


def _equation(sides: tuple[str, ...]) -> _Equation:
    for side, rest in ((sides[0], sides[1:]), (sides[-1], sides[:-1])):
        if _VARIABLE.fullmatch(side) or _VARIABLES.fullmatch(side):
            return _Equation("".join(side.split()), rest)
    return _Equation(None, sides)


def _one_variable(equations: Sequence[_Equation]) -> str | None:
    """The variable of all equations, if it is the same."""
    names = {each.variable for each in equations}
    return names.pop() if len(names) == 1 else None


def _values(equations: Sequence[_Equation], equal: _Equal) -> str | None:
    """The values of equations: one alone, or several as a set."""
    values = [each.value(equal) for each in equations]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return known[0] if len(known) == 1 else rf"\{{{', '.join(known)}\}}"


def _said(equations: Sequence[_Equation], other: str, equal: _Equal) -> str | None:
    """What a text without equations must equal; for several variables a tuple in the order of their names."""
    if _one_variable(equations) or len(equations) == 1:
        return _values(equations, equal)
    named = {each.variable.lstrip("\\"): each for each in equations if each.variable}
    # math-verify takes a pair for an interval, too.
    if len(named) < len(equations) or _RELATION.search(other):
        return None
    values = [named[name].value(equal) for name in sorted(named)]
    return None if None in values else f"({', '.join(map(str, values))})"


def _expanded(equations: Sequence[_Equation]) -> list[_Equation]:
    """The equations with ``(x, y) = (3, 4)`` split into two."""
    found: list[_Equation] = []
    for each in equations:
        name, value = each.variable or "", each.sides[-1]
        names, values = (split(text[1:-1], ",", has_groups=False) for text in (name, value))
        is_tuple = name.startswith("(") and value.startswith("(") and value.endswith(")")
        if is_tuple and len(names) == len(values) and len(each.sides) == 1:
            found += (_Equation(names[i], (values[i],)) for i in range(len(names)))
        else:
            found.append(each)
    return found


def _match(
    first: Sequence[_Equation], second: Sequence[_Equation], equal: _Equal, verify: _Equal
) -> bool:
    """Whether each equation equals a different one of the other list, in any order."""
    left = list(second)
    if len(first) != len(left):
        return False
    for each in first:
        found = next((one for one in left if _are_same(each, one, equal, verify)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _are_same(first: _Equation, second: _Equation, equal: _Equal, verify: _Equal) -> bool:
    if first.variable and first.variable == second.variable:
        values = [each.value(equal) for each in (first, second)]
        return None not in values and equal(str(values[0]), str(values[1]))
    if not verify(first.latex, second.latex):
        return False
    # Equations without solutions all have the same, empty set of solutions; their sides are compared below.
    if not verify(first.latex, _IMPOSSIBLE):
        return True
    is_comparable = (first.variable, len(first.sides)) == (second.variable, len(second.sides))
    orders = (second.sides, second.sides[::-1]) if is_comparable and first.is_understood else ()
    return any(all(map(equal, first.sides, sides)) for sides in orders)


def _without_brackets(text: str) -> str:
    """A text without brackets around all of it, ``(x = 3)``, or with commas between the lines of a system."""
    lines = _LINES.fullmatch(text)
    if lines:
        return re.sub(r"\s*\\\\\s*", ", ", lines[2].replace("&", "")).strip(" ,")
    for opening, closing in _BRACKETS:
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and is_closed(inner):
            return inner.strip()
    return text
