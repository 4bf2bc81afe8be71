"""Counterfactual questions: the same problem with one number changed, and its new answer.

The input is a GSM8K-shaped record: a question and a solution with calculator annotations
(``<<3*4=12>>``). The numbers in its steps are matched with the question's, one number is changed, and the
steps are computed again, exactly. If a number could be matched in two ways with different answers, no
question is made.
"""

import re
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

from regime_w.counterfactual.steps import (
    Literals,
    Sources,
    annotated_steps,
    literals_of,
    reexecute,
    value_of,
)
from regime_w.numbers.answers import extract_gold
from regime_w.numbers.arithmetic import NUMBER
from regime_w.numbers.number_words import constants_in, word_numbers_in
from regime_w.numbers.numerals import canonical, to_ascii

MAX_NUMERALS = 50
"""Numbers of a question beyond this many are not changed."""
_MAX_CHARS = 20
"""Longer numbers are not quantities."""

_NUMBER = re.compile(NUMBER)
# A number next to these is not changed: it is part of a word, fraction, date, clock time or exponent.
_BOUND_BEFORE = re.compile(r"[\w.,/:^#-]\Z")
_BOUND_AFTER = re.compile(r"[\w/:^]|[.,]\d|-\d| ?/| ?(?:am|pm|a\.m|p\.m|o'clock)\b", re.IGNORECASE)
_YEARS = range(1800, 2101)
_KNOWN_AFTER = re.compile(
    r"-[a-z]| (?:legs|wheels|sides)\b| (?:days|hours|months) (?:a|per|each|every|in a) | of (?:them|us|you)\b",
    re.IGNORECASE,
)
"""Matches what follows a number that is fixed: 4-wheel drive, 7 days a week, the 3 of them, who are named nearby."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counterfactual:
    """A question that differs from another in one number, or by one added step."""

    question: str
    gold: str
    """Canonical answer, as `regime_w.extract_gold` gives it."""
    offset: str | None
    """Canonical c, if the new answer is the old one + c; None if the steps were computed again."""
    change: tuple[str, str] | None
    """The number in the original question and in this one; None for an added step."""


@dataclass(frozen=True, slots=True)
class _Numeral:
    """A number in the question that can be changed."""

    start: int
    end: int
    text: str
    value: Fraction
    is_percentage: bool


def with_suffix(question: str, gold: str, offset: int = 17) -> Counterfactual | None:
    """Adds a last step to any question, which changes its answer by ``offset``.

    This detects answers that ignore the question, but not errors made consistently.

    Returns:
        The new question, or None if ``gold`` has no answer that can be read.
    """
    answer = extract_gold(gold)
    moved = None if answer is None else canonical(Fraction(answer) + offset)
    if moved is None:
        return None
    return Counterfactual(
        question=f"{question.rstrip()} Add {offset} to that result and give the sum as the answer.",
        gold=moved,
        offset=str(offset),
        change=None,
    )


def reexecuted(question: str, solution: str, *, careful: bool = False) -> Counterfactual | None:
    """Changes one number of a question and computes its solution again.

    Numbers are tried in the order of the text, each multiplied by 2 and 3, increased by 1, 2, 5 and
    10, decreased by 1 and halved. The first change that keeps whole results whole and positive ones
    positive, and that changes the answer, is used.

    Args:
        question: The question.
        solution: Its solution, annotated, with ``#### answer`` at the end.
        careful: For training. A number is changed only if the steps use it once, if it is not one of several
            percentages, if it does not count the days or hours of a week or day, and if it is not the sum,
            difference, product or quotient of two others of the question: otherwise knowledge of the world, or
            another sentence, may determine it. And the smallest change of any number is tried first, so that
            the new question is about as hard as the old one.

    Returns:
        The new question, or None if no number can be changed safely.
    """
    text = to_ascii(question)
    steps = annotated_steps(solution)
    gold = extract_gold(solution)
    if (
        not steps
        or gold is None
        or steps[-1].result != Fraction(gold)
        or len(text) != len(question)
    ):
        return None
    numerals, values = _numerals(text)
    in_words = word_numbers_in(question) | constants_in(f"{question} {solution}")
    if careful:
        used = literals_of(solution)
        # 1 always counts as a number word: "a" and "each" may stand for it.
        known = {*values, *(word_numbers_in(question) - {1})}
        numerals = [numeral for numeral in numerals if _stands_alone(numeral, text, used, known)]
    changes: list[tuple[_Numeral, Fraction, frozenset[Fraction]]] = []
    for numeral in numerals:
        others = Counter(values)
        others[numeral.value] -= 1
        fixed = in_words | {value for value, count in others.items() if count}
        fixed |= {value / 100 for value in fixed if value <= 100} if "%" in text else set()
        changes += [(numeral, value, fixed) for value in _changes(numeral)]
    if careful:
        changes.sort(key=lambda change: abs(change[1] - change[0].value))
    for numeral, value, fixed in changes:
        changed = [(numeral.value, value)]
        if numeral.is_percentage:
            changed.append((numeral.value / 100, value / 100))
        answer = reexecute(steps, Sources(tuple(changed), fixed))
        new_gold = None if answer is None else canonical(answer)
        if new_gold is not None and new_gold != gold:
            new_text = _write(value, like=numeral.text)
            return Counterfactual(
                question=question[: numeral.start] + new_text + question[numeral.end :],
                gold=new_gold,
                offset=None,
                change=(numeral.text, new_text),
            )
    return None


def _stands_alone(numeral: _Numeral, question: str, used: Literals, known: Set[Fraction]) -> bool:
    """Whether nothing else in question and solution seems to depend on a number.

    Args:
        numeral: The number.
        question: The question as ASCII.
        used: The numbers of the solution.
        known: The numbers of the question, including this one.
    """
    num_uses = sum(literal in (numeral.value, numeral.value / 100) for literal in used.in_steps)
    if num_uses != 1 or numeral.value in used.in_words:
        return False
    if numeral.is_percentage and question.count("%") > 1:
        return False
    if _follows(numeral.value, known):
        return False
    return not _KNOWN_AFTER.match(question, numeral.end)


def _follows(value: Fraction, known: Set[Fraction]) -> bool:
    """Whether a number is the sum, difference, product or quotient of two others: 3 and 4 apples, 7 in total."""
    others = known - {value, 0}
    return any(
        {value - other, value + other, value / other, value * other} & (others - {other})
        for other in others
    )


def _numerals(question: str) -> tuple[list[_Numeral], list[Fraction]]:
    """The numbers that can be changed and the values of all numbers, in the order of the text."""
    values: list[Fraction] = []
    changeable: list[_Numeral] = []
    for match in islice(_NUMBER.finditer(question), MAX_NUMERALS):
        if len(match.group()) > _MAX_CHARS:
            continue
        value = value_of(match.group())
        before = question[max(0, match.start() - 1) : match.start()]
        after = question[match.end() : match.end() + 10]
        values.append(value)
        is_percentage = after[:1] == "%"
        if (
            value > 1
            and not (value.denominator == 1 and value.numerator in _YEARS)
            # At 50 % the part that is taken and the part that is left are indistinguishable.
            and not (is_percentage and value == 50)
            and not _BOUND_BEFORE.search(before)
            and not _BOUND_AFTER.match(after)
        ):
            changeable.append(
                _Numeral(match.start(), match.end(), match.group(), value, is_percentage)
            )
    return changeable, values


def _changes(numeral: _Numeral) -> Iterator[Fraction]:
    """New values that can be written in the form of the old one."""
    value = numeral.value
    largest = 100 if numeral.is_percentage and value <= 100 else None
    for changed in (value * 2, value * 3, *(value + d for d in (1, 2, 5, 10, -1)), value / 2):
        is_writable = (changed * 10 ** _num_decimals(numeral.text)).denominator == 1
        if changed > 1 and is_writable and (largest is None or changed <= largest):
            yield changed


def _num_decimals(number: str) -> int:
    return len(number.partition(".")[2])


def _write(value: Fraction, *, like: str) -> str:
    """Writes a number in the form of another, with as many decimals and the same use of commas."""
    num_decimals = _num_decimals(like)
    digits = str(int(value * 10**num_decimals)).zfill(num_decimals + 1)
    whole = digits[: len(digits) - num_decimals]
    if "," in like:
        whole = f"{int(whole):,}"
    return whole + ("." + digits[-num_decimals:] if num_decimals else "")
