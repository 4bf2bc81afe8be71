r"""Answers that are mathematics: expressions, sets, intervals, tuples, equations, as math-verify compares them.

Numbers, words and the same LaTeX are compared here. All else goes to a process of its own, since computer
algebra may take any time and memory. What it says of two answers depends on the versions of Python, SymPy and
math-verify, and not on how fast or busy a machine is: work is counted and not timed, and an answer that takes
too much of it equals no other. Only work that makes no calls is ended by a limit in seconds of CPU time, which
no known answer reaches. A run's journal keeps rewards, so that replaying it compares nothing again.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.math_process import are_equal
from regime_w.answer_types.positions import only_line, stated_answer, states_gold
from regime_w.answer_types.text import normalised
from regime_w.numbers.markup import without_markup, without_thoughts
from regime_w.numbers.numerals import NUMBER, SCALE, canonical, to_ascii, value_of
from regime_w.numbers.statements import has_hedge

_MAX_ROUNDS = 8
"""Two rounds of cleaning do for all but odd texts."""

_SYMBOLS = "pi infty cup cap in le ge pm times cdot emptyset sqrt"
_UNICODE = str.maketrans(
    {"²": "^2", "³": "^3", "ℝ": r"\mathbb{R}"}
    | dict(zip("π∞∪∩∈≤≥±×·∅√", (rf"\{name} " for name in _SYMBOLS.split()), strict=True))
)
_LATEX_TEXT = r"\\(?:text|math|mbox)(?:bf|rm|it|sf|normal)?"
_SYMBOL_OF_UNIT = r"(?:[cmk]m|kg|ft|lbs?|oz|m[lL]|hrs?|mins?|mph)"
# Behind a digit without a space between, other letters are factors.
_UNIT = (
    rf"(?:\s*{_SYMBOL_OF_UNIT}|\s+(?!(?i:{SCALE})|sqrt|sin|cos|tan|cot|sec|csc|log|exp|mod|inf|pi)[A-Za-z]{{3,}})"
    r"(?:\s[A-Za-z]{2,}){0,3}"
)
_CLEANING = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:boxed|fbox)\s*\{([^{}]*)\}", r"\1"),
        (r"(?<=[0-9])(?:\{,\}|,?\s*\\!|\\,)\s*(?=[0-9]{3}(?![0-9]))", ""),
        (r"\\?\$|(?<!\\)\\[()\[\]]|\\(?:left|right|displaystyle|limits)(?![A-Za-z])\.?|`", " "),
        (r"(?<!\\)\\[!,;: ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"(?<=[\w)}])\*\*(?=[\w({\\-])", "^"),
        (r"\*\*", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (
            rf"\s*,?\s*(?:{_LATEX_TEXT}\s*\{{\s*(?:or|and)\s*\}}|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z]))\s*",
            ", ",
        ),
        (r"(?:\^\s*\{?\s*\\circ\s*\}?|°|\\degree(?![A-Za-z]))|\\?%", ""),
        (rf"(?<=[0-9])\s*{_LATEX_TEXT}\s*\{{\s*((?i:{SCALE})s?\b[^{{}}]*)\}}", r" \1 "),
        (rf"(?<=[0-9])(\s+(?i:{SCALE})s?){_UNIT}\s*\Z", r"\1"),
        (
            rf"(?:(?<=[^\s,(])\s*{_LATEX_TEXT}\s*\{{[^{{}}]*\}}|(?<=[0-9]){_UNIT})(?:\^\{{?[23]\}}?)?\s*\Z",
            "",
        ),
        (rf"{_LATEX_TEXT}\s*\{{([^{{}}]*)\}}", r"\1"),
    )
)
_NUMBER = re.compile(rf"(?P<sign>[+-]?)\s*{NUMBER}", re.VERBOSE | re.IGNORECASE)
# A numeral with its base is read as the words are: math-verify takes no notice of the base.
_WORDS = re.compile(
    r"[A-Za-z]{3,}|[A-Za-z]{2,}(?:[ -][A-Za-z]+){1,2}|[0-9A-Fa-f]+_(?:\{[0-9]+\}|[0-9]+)"
)
# Two words in a row, which are neither a command nor a product of letters.
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}")
_FORMULA = re.compile(r"(?<!\\)\$([^$]+)(?<!\\)\$|\\\((.+?)\\\)")
_NO_UNION = r"(?:(?!\\cup|\\cap|\\setminus).)*"
_SET = re.compile(rf"\\\{{{_NO_UNION}\\\}}")
_TUPLE_OR_INTERVAL = re.compile(rf"[(\[]{_NO_UNION},{_NO_UNION}[)\]]")


@dataclass(frozen=True, slots=True)
class Mathematics:
    """An expression, set, interval, tuple or equation, a number, or a word or three."""

    name: ClassVar[AnswerTypeName] = "math"
    choices: ClassVar[tuple[str, ...]] = ()
    is_canonical: ClassVar[bool] = False
    # Were it for answers that are numbers, paths would be paid on some questions of a source and not on others.
    is_numeric: ClassVar[bool] = False
    expected: ClassVar[str] = (
        r"mathematics that math-verify reads: give the LaTeX alone, or a solution with a \boxed{}"
    )

    def extract(self, text: str) -> str | None:
        """The stated answer, or a completion that is one line of mathematics."""
        text = without_thoughts(text)
        stated = stated_answer(text)
        return self.read(text if stated is None else stated.line)

    def read(self, answer: str) -> str | None:
        """The number in canonical form, the words, or the cleaned LaTeX; of prose, its only formula if it has one."""
        line = only_line(answer)
        if line is None or "?" in line:
            return None
        found = _read(line)
        formulas = _FORMULA.findall(line)
        if found is None and len(formulas) == 1 and not has_hedge(_FORMULA.sub(" ", line)):
            return _read("".join(formulas[0]))
        return found

    def read_gold(self, text: str) -> str | None:
        """As `read`, of a line or of what a solution states; None where math-verify cannot read it."""
        stated = stated_answer(text) if states_gold(text) else None
        gold = self.read(text if stated is None else stated.line)
        if gold is None or _is_known(gold):
            return gold
        return gold if are_equal(gold, gold) else None

    def equal(self, a: str | None, b: str | None) -> bool:
        """Whether math-verify finds ``a`` equal to the gold answer ``b``; numbers and words are compared exactly.

        A list without brackets equals a set, and a tuple of the same order; a set equals neither tuple nor interval.
        """
        if a is None or b is None or a == b:
            return a is not None and a == b
        if (_number(a) and _number(b)) or _WORDS.fullmatch(a) or _WORDS.fullmatch(b):
            return False
        if any(_SET.fullmatch(x) and _TUPLE_OR_INTERVAL.fullmatch(y) for x, y in ((a, b), (b, a))):
            return False
        return are_equal(a, b)


def _read(line: str) -> str | None:
    cleaned = _cleaned(line)
    number = _number(cleaned)
    if number is not None:
        return number
    if _WORDS.fullmatch(cleaned):
        return normalised(cleaned).replace("{", "").replace("}", "")
    if re.search("[0-9A-Za-z]", cleaned) is None or _PROSE.search(cleaned):
        return None
    return only_line(cleaned) if _is_closed(cleaned) else None


def _is_known(answer: str) -> bool:
    """Whether an answer that was read needs no computer algebra to be read."""
    return _number(answer) is not None or _WORDS.fullmatch(answer) is not None


def _cleaned(text: str) -> str:
    """LaTeX without delimiters, spacing, units, percent and degree signs; empty where cleaning has no end."""
    for _ in range(_MAX_ROUNDS):
        before = text
        text = to_ascii(text).translate(_UNICODE)
        for pattern, replacement in _CLEANING:
            text = pattern.sub(replacement, text)
        text = " ".join(text.split()).strip(" .,;:*_")
        if text == before:
            return text
    return ""


def _number(text: str) -> str | None:
    """A text that is one number, in canonical form."""
    found = _NUMBER.fullmatch(without_markup(text).strip())
    value = None if found is None else value_of(found)
    if found is None or value is None:
        return None
    return canonical(-value if found["sign"] == "-" else value)


def _is_closed(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0
