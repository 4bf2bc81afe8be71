r"""Answers that are mathematics: expressions, sets, intervals, tuples, equations, as math-verify compares them.

Numbers, words and identical LaTeX are compared here. Everything else goes to a separate process, since computer
algebra may take any amount of time and memory. Its results depend on the versions of Python, SymPy and
math-verify, but not on how fast or busy the machine is: work is counted, not timed, and an answer that takes too
much work equals no other. Only work that makes no calls is limited in seconds of CPU time, a limit that no known
answer reaches. A run's journal keeps rewards, so replaying it compares nothing again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

from regime_w.algebra import equations
from regime_w.algebra.latex import cleaned, is_closed
from regime_w.algebra.math_process import are_equal
from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.kinds import Kind, comparable_kinds
from regime_w.answer_types.stated_answers import (
    only_line,
    stated_answer,
    states_gold,
    states_in_form,
)
from regime_w.answer_types.text import is_withdrawn, normalised
from regime_w.numbers.numerals import NUMBER, canonical, value_of
from regime_w.texts.completions import completion_of
from regime_w.texts.denials import has_hedge
from regime_w.texts.markup import without_markup

_NUMBER = re.compile(rf"(?P<sign>[+-]?)\s*{NUMBER}", re.VERBOSE | re.IGNORECASE)
# A numeral with its base is read as words are, since math-verify ignores the base.
_WORDS = re.compile(
    r"[A-Za-z]{3,}|[A-Za-z]{2,}(?:[ -][A-Za-z]+){1,2}|[0-9A-Fa-f]+_(?:\{[0-9]+\}|[0-9]+|[a-z]{3,})"
)
# Two words in a row are neither a command nor a product of letters.
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}")
# Points, segments and single letters, whose case and order math-verify ignores.
_NAME = re.compile(r"[A-Z]{2,}|[A-Za-z]")
_NUMBERS_APART = re.compile(r"[0-9]+(?: [0-9]+)+")
_FORMULA = re.compile(r"(?<!\\)\$([^$]+)(?<!\\)\$|\\\((.+?)\\\)")
# A single word in front of a formula would be read as letters of it.
_LEAD_IN = re.compile(
    r"\A(?:so|thus|hence|therefore|then|finally|and|or|now|giving|get)\b[,:]?\s*(?=\$|\\\()",
    re.IGNORECASE,
)
_UNION = re.compile(r"\\(?:cup|cap|setminus)")
_MAX_COMPARED = 16
"""Most pairs of equations that are compared for one answer: enough for systems of four."""
_NUM_KEPT = 4096
"""Kinds of answers that are remembered: each is asked for in every pair."""
_PRIMED = re.compile(r"(?<![A-Za-z\\])([A-Za-z])('+)")
_UNNOTICED = tuple(
    re.compile(pattern)
    for pattern in (
        r"\\(?:bmod|equiv|approx|sim|to|neg|nleq|ngeq|rightarrow)(?![A-Za-z])",
        r"\\pmod\{[^{}]*\}",
        r"\^\s?\{?\s?(?:T|\\top|\\intercal)(?![A-Za-z])",
        r"\\frac\s?\{\s?(?:d|\\partial)[^{}]*\}\s?\{\s?(?:d|\\partial)[^{}]*\}",
    )
)
"""Signs that math-verify ignores: relations, a modulus, a transpose, and the two parts of a derivative."""
_RELATION_FIRST = re.compile(r"[<>≈~]|\\(?:[lg]eq?|[lg]t|neq?|approx|sim|n[lg]eq)(?![A-Za-z])")


def _go_on() -> None:
    """Every comparison is made."""


@dataclass(frozen=True, slots=True)
class Mathematics:
    """An expression, set, interval, tuple or equation, a number, or a word or three."""

    before_comparison: Callable[[], None] = field(default=_go_on, repr=False, compare=False)
    """Called before each comparison with math-verify; what it raises ends `read_gold` or `equal`, which may make many."""

    name: ClassVar[AnswerTypeName] = "math"
    choices: ClassVar[tuple[str, ...]] = ()
    # False for answers that are numbers, too: else paths would be rewarded on only some questions of a source.
    is_numeric: ClassVar[bool] = False
    expected: ClassVar[str] = (
        r"mathematics that math-verify reads: give the LaTeX alone, or a solution with a \boxed{}"
    )

    def extract(self, text: str) -> str | None:
        """The stated answer, or a completion that is one line of mathematics; None if what follows takes it back."""
        text = completion_of(text)
        stated = stated_answer(text)
        if stated is None:
            return self.read(text)
        answer = self.read(stated.line)
        if answer is None or stated.is_marked:
            return answer
        return None if is_withdrawn(stated.behind, normalised(stated.line)) else answer

    def is_formatted(self, text: str) -> bool:
        """Whether `extract` takes the answer from a ``####``, a box or an element."""
        return states_in_form(completion_of(text))

    def read(self, answer: str) -> str | None:
        """The canonical number, the words or the cleaned LaTeX; for prose, its formula if there is exactly one."""
        # A matrix may be written over several lines.
        line = only_line(" ".join(answer.split()) if r"\begin{" in answer else answer)
        if line is None or "?" in line:
            return None
        line = _LEAD_IN.sub("", line, count=1)
        found = _read(line)
        formulas = _FORMULA.findall(line)
        if found is None and len(formulas) == 1 and not has_hedge(_FORMULA.sub(" ", line)):
            return _read("".join(formulas[0]))
        return found

    def read_gold(self, text: str) -> str | None:
        """As `read`, for a line or for what a solution states; None if math-verify cannot read it."""
        stated = stated_answer(text) if states_gold(text) else None
        gold = self.read(text if stated is None else stated.line)
        if gold is None:
            return None
        parts = equations.parts(gold) if equations.has_equation(gold) else [gold]
        return gold if all(map(self._is_comparable, parts)) else None

    def kind(self, answer: str) -> Kind:
        """What tells without math-verify that two numbers, two names, a set and a tuple, or words and anything differ."""
        return _kind(answer)

    def equal(self, a: str | None, b: str | None) -> bool:
        """Whether math-verify finds ``a`` equal to the gold answer ``b``; numbers and words are compared exactly.

        A list without brackets equals a set, and a tuple of the same order; a set equals neither tuple nor interval.
        See `regime_w.algebra.equations` for what an equation equals.
        """
        if a is None or b is None or a == b:
            return a is not None and a == b
        kinds = _kind(a), _kind(b)
        if kinds[0] not in comparable_kinds(kinds[1]):
            return False
        if Kind.EQUATION in kinds:
            return equations.are_equivalent(
                a, b, self._are_equal_parts, self._at_most(_MAX_COMPARED)
            )
        return self._verify(a, b)

    def _is_comparable(self, part: str) -> bool:
        """Whether an answer or a part of it can be read and compared."""
        part = self.read(part) or ""
        return _kind(part) in (Kind.NUMBER, Kind.FIXED) or self._compared(part, part)

    def _are_equal_parts(self, a: str, b: str) -> bool:
        """As `equal`, for the sides of equations."""
        return self.equal(self.read(a), self.read(b))

    def _at_most(self, num_compared: int) -> Callable[[str, str], bool]:
        """A function that lets math-verify compare so many pairs of texts; further pairs count as different."""
        left = iter(range(num_compared))
        return lambda a, b: next(left, None) is not None and self._verify(a, b)

    def _verify(self, a: str, b: str) -> bool:
        """Whether math-verify finds two texts equal, and they agree in all that it ignores."""
        if any(pattern.findall(a) != pattern.findall(b) for pattern in _UNNOTICED):
            return False
        # Not only as many primes, but on the same letters: u'v is not uv'.
        first, second = (_PRIMED.sub(_as_symbol, text) for text in (a, b))
        return self._compared(first, second)

    def _compared(self, a: str, b: str) -> bool:
        """Whether math-verify reads both texts and finds them equal."""
        self.before_comparison()
        return are_equal(a, b)


def _as_symbol(found: re.Match[str]) -> str:
    """A letter with primes as one symbol."""
    return rf"{found[1]}_{{{'p' * len(found[2])}}}"


def _read(line: str) -> str | None:
    text = cleaned(line)
    number = _number(text)
    if number is not None:
        return number
    if _WORDS.fullmatch(text):
        words = normalised(text).replace("{", "").replace("}", "")
        # In small letters "Pi Pi" is notation, not words.
        return words if _WORDS.fullmatch(cleaned(words)) else _read(words)
    if _NUMBERS_APART.fullmatch(text):
        return None
    if re.search("[0-9A-Za-z]", text) is None or _PROSE.search(text):
        return None
    if _RELATION_FIRST.match(text):
        return None
    return only_line(text) if _has_closed_braces(text) else None


@lru_cache(maxsize=_NUM_KEPT)
def _kind(answer: str) -> Kind:
    if equations.has_equation(answer):
        return Kind.EQUATION
    if _WORDS.fullmatch(answer):
        return Kind.FIXED
    if _number(answer) is not None:
        return Kind.NUMBER
    if _NAME.fullmatch(answer):
        return Kind.NAME
    if _UNION.search(answer):
        return Kind.OTHER
    if answer.startswith(r"\{") and answer.endswith(r"\}"):
        return Kind.SET
    inner = answer[1:-1]
    if answer[:1] in ("(", "[") and answer[-1:] in (")", "]") and "," in inner and is_closed(inner):
        return Kind.TUPLE_OR_INTERVAL
    return Kind.OTHER


def _number(text: str) -> str | None:
    """A text that is one number, in canonical form."""
    found = _NUMBER.fullmatch(without_markup(text).strip())
    value = None if found is None else value_of(found)
    if found is None or value is None:
        return None
    return canonical(-value if found["sign"] == "-" else value)


def _has_closed_braces(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0
