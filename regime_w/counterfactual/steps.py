"""Reads the annotated steps of a solution (``<<3*4=12>>``), and computes them again with a number changed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from regime_w.numbers.arithmetic import NUMBER, Exact, evaluate
from regime_w.numbers.numerals import to_ascii

MAX_STEPS = 40
"""Longer solutions are not re-executed."""

_ANNOTATION = re.compile(r"<<([^<>=\n]{1,100})=([^<>=\n]{1,40})>>")
_NUMBER = re.compile(NUMBER)
_RESULT = re.compile(rf"= ?\$?({NUMBER})")


@dataclass(frozen=True, slots=True)
class SolutionStep:
    """One annotated step."""

    expression: str
    """As written, such as ``3*4``."""
    result: Exact


def annotated_steps(solution: str) -> list[SolutionStep]:
    """The annotated steps; empty if one is false or cannot be read."""
    steps: list[SolutionStep] = []
    for match in _ANNOTATION.finditer(to_ascii(solution)):
        result = evaluate(match[2])
        # A lone number ("<<8=8>>") was computed in the text around it.
        in_words = _NUMBER.fullmatch(match[1].strip())
        if in_words or result is None or evaluate(match[1]) != result or len(steps) == MAX_STEPS:
            return []
        steps.append(SolutionStep(match[1], result))
    return steps


@dataclass(frozen=True, slots=True)
class Literals:
    """The numbers of a solution."""

    in_steps: tuple[Fraction, ...]
    """Those in the expressions of the annotated steps, each as often as it occurs."""
    in_words: frozenset[Fraction]
    """Results that are computed outside the annotations, such as 5 in ``10/2 = 5 rounds``."""


def literals_of(solution: str) -> Literals:
    """The numbers that the steps of a solution use, annotated and not."""
    text = to_ascii(solution)
    expressions = (match[1] for match in _ANNOTATION.finditer(text))
    found = (match.group() for each in expressions for match in _NUMBER.finditer(each))
    beside = _RESULT.finditer(_ANNOTATION.sub("#", text))
    return Literals(
        in_steps=tuple(map(value_of, found)),
        in_words=frozenset(value_of(match[1]) for match in beside),
    )


def value_of(number: str) -> Fraction:
    """The value of a number as it is written, with or without commas."""
    return Fraction(number.replace(",", ""))


@dataclass(frozen=True, slots=True)
class Sources:
    """The numbers from which a literal in a step may come."""

    changed: tuple[tuple[Fraction, Fraction], ...]
    """(old, new) value of the changed number; for a percentage also a hundredth of each."""
    fixed: frozenset[Fraction]
    """All unchanged numbers of the text."""


def reexecute(steps: Sequence[SolutionStep], sources: Sources) -> Exact | None:
    """The new result of the last step; None if a literal's source is ambiguous."""
    results: list[tuple[Exact, Exact]] = []
    for step in steps:
        expression = _substituted(step.expression, sources, results)
        new = None if expression is None else evaluate(expression)
        if new is None or (new.denominator == 1) < (step.result.denominator == 1):
            return None
        if new < 0 or (new == 0) > (step.result == 0):
            return None
        results.append((step.result, new))
    return results[-1][1]


def _substituted(
    expression: str, sources: Sources, results: Sequence[tuple[Exact, Exact]]
) -> str | None:
    """The expression with every literal's new value; None if a literal has no source, or several."""
    parts: list[str] = []
    position = 0
    for match in _NUMBER.finditer(expression):
        literal = value_of(match.group())
        new_values = {new for old, new in (*sources.changed, *results) if old == literal}
        if literal in sources.fixed:
            new_values.add(literal)
        # A fraction may be written as a percentage or as a decimal.
        new_values |= {Fraction(new, 100) for old, new in results if old == literal * 100}
        if len(new_values) != 1:
            return None
        (new_value,) = new_values
        parts += [expression[position : match.start()], f"({new_value})"]
        position = match.end()
    return "".join([*parts, expression[position:]])
