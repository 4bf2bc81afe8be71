r"""Cleans a line of LaTeX for comparison, and splits it: no delimiters, spacing, units, percent and degree signs.

From a text of bounded length to one in which the same mathematics is more often written the same way:
``0.333...`` becomes ``\frac{1}{3}``, ``sin x`` becomes ``\sin x`` and "all real numbers" ``\mathbb{R}``.
"""

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

from regime_w.algebra.inequalities import joined
from regime_w.numbers.numerals import SCALE, to_ascii

_MAX_ROUNDS = 8
"""Two rounds of cleaning are enough for all but odd texts."""

_SYMBOLS = "infty cup cap in le ge pm times cdot emptyset"
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
_UNICODE = str.maketrans(
    {"ℝ": r"\mathbb{R}"}
    | dict(zip("∞∪∩∈≤≥±×·∅", (rf"\{name} " for name in _SYMBOLS.split()), strict=True))
    | dict(zip("αβγδεζηθικλμνξπρστφχψω", (rf"\{name} " for name in _GREEK.split()), strict=True))
)
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉₊₋ₙ"
_PLAIN = str.maketrans(_RAISED + _LOWERED, 2 * "0123456789+-n")
_LATEX_TEXT = r"\\(?:text|math|mbox)(?:bf|rm|it|sf|normal)?"
_SYMBOL_OF_UNIT = r"(?:[cmk]m|kg|ft|lbs?|oz|m[lL]|hrs?|mins?|mph)"
# Words behind a number that are part of it.
_NO_UNIT = (
    r"(?:or|is|if|not|maybe|perhaps|wrong|incorrect|less|fewer|more|greater|below|above|under|divided|multiplied|remainder|out"
    r"|root|power|raised|to the|doubled|tripled|halved|imaginary|negative|repeating|recurring|percent\s(?:less|more)"
    r"|degrees\s(?:below|under)|twelfths?|elevenths?)\b|"
    rf"(?i:{SCALE})|sqrt|sin|cos|tan|cot|sec|csc|log|exp|mod|inf|choose|factorial|squared|cubed|times|plus|minus|over"
    r"|(?i:dozen|gross|score|base|half|halves|(?:third|fourth|quarter|fifth|sixth|seventh|eighth|ninth|tenth)s?)\b"
    rf"|(?:{_GREEK.replace(' ', '|')})(?![A-Za-z])|[xyz]{{2,}}\b"
)
# Directly behind a digit, without a space, other letters are factors.
_UNIT = (
    rf"(?:\s*{_SYMBOL_OF_UNIT}|\s+(?!{_NO_UNIT})[A-Za-z]{{3,}})"
    r"(?:\s[A-Za-z]{2,}){0,3}"
)
# A single upright letter is a unit only if it is one of these; bold letters are vectors.
_TEXT_OF_UNIT = rf"\\(?:text|mbox|mathrm|mathit|textrm|textit)\s*\{{\s*(?:[mgshLlNJWVKCAF]|(?!\s*(?:,|{_NO_UNIT}))[^{{}}]{{2,}})\s*\}}"
_DEGREES = r"(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|°|\\degree(?![A-Za-z]))"
_TRIGONOMETRIC = "sin|cos|tan|cot|sec|csc"
_IN_DEGREES = rf"(-?[0-9]+(?:\.[0-9]+)?)\s*{_DEGREES}"
_MODULUS = r"(?:\{([^{}]*)\}|([0-9A-Za-z]+))"
_FUNCTIONS = "(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp"
_PERIOD = r"\{?\s*\\(?:overline|bar|dot|overbar)\s*(?:\{\s*(?P<marked>[0-9]{1,20})\s*\}|(?P<digit>[0-9]))\s*\}?"
# One digit three times or more, unlike "0.33", or a block of digits twice or more.
_ELLIPSIS = r"(?:(?P<again>[0-9])(?P=again){2,}|(?P<block>[0-9]{2,9}?)(?P=block)+)(?:\.{2,}|…|\\[lc]?dots(?![A-Za-z]))"


def _as_fraction(decimal: re.Match[str]) -> str:
    """A decimal that repeats its last digits forever, as a fraction."""
    period = next(filter(None, decimal.group("marked", "digit", "again", "block")))
    whole, fixed = decimal["whole"] or "0", decimal["fixed"]
    nines = 10 ** len(period) - 1
    top = int(whole + fixed) * nines + int(period)
    value = Fraction(top, nines * 10 ** len(fixed))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _in_radians(found: re.Match[str]) -> str:
    """A trigonometric function of a number of degrees, in radians."""
    degrees = next(filter(None, found.groups()[2:]))
    return rf"\{found['name']}{found['power'] or ''}(\frac{{{degrees}\pi}}{{180}})"


def _as_factor(found: re.Match[str]) -> str:
    """A Unicode fraction before a factor, as LaTeX: "½x" is half of x, but "1/2x" may be read otherwise."""
    return rf"\frac{{{unicodedata.normalize('NFKC', found.group()).replace('⁄', '}{')}}}"


def _as_script(found: re.Match[str]) -> str:
    """Raised or lowered Unicode characters as LaTeX."""
    text = found.group()
    return rf"{'^' if text[0] in _RAISED else '_'}{{{text.translate(_PLAIN)}}}"


# Applied first: in ASCII "½" is "1/2".
_FRACTION_BEFORE_FACTOR = re.compile(r"(?<![0-9^_])(?<![0-9]\s)[¼-¾⅐-⅞](?=\s?(?:[A-Za-zα-ω(\\]|√))")

_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"\\(?:boxed|fbox)\s*\{([^{}]*)\}", r"\1"),
    (r"(?<=[0-9])(?:\{,\}|,?\s*\\!|\\,)\s*(?=[0-9]{3}(?![0-9]))", ""),
    (r"\\?\$|(?<!\\)\\[()\[\]]|\\(?:left|right|displaystyle|limits)(?![A-Za-z])\.?|`", " "),
    (r"(?<!\\)\\[!,;: ]|~|\\q?quad(?![A-Za-z])", " "),
    (r"(?<=[\w)}])\*\*(?=[\w({\\-])", "^"),
    (r"\*\*", " "),
    (rf"[{_RAISED}]+|[{_LOWERED}]+", _as_script),
    (r"\^\s*([-+]\s*(?:[0-9]+|[A-Za-z]))", r"^{\1}"),
    (r"√\s*(?:\(([^()]*)\)|([0-9]+|[A-Za-z]))", r"\\sqrt{\1\2}"),
    (r"√", r"\\sqrt "),
    (r"\\langle(?![A-Za-z])", "("),
    (r"\\rangle(?![A-Za-z])", ")"),
    (
        rf"\(\s*\\?mod(?![A-Za-z])\s*{_MODULUS}\s*\)|\\p?mod(?![A-Za-z])\s*{_MODULUS}",
        lambda found: rf"\pmod{{{next(filter(None, found.groups()), '')}}}",
    ),
    (r"\A[A-Za-z]\s*(?:\\equiv|≡)\s*(?=.*\\pmod)", ""),
    # math-verify would add what stands side by side, as in a mixed number.
    (
        r"(?:(?<=[0-9])(?<![_^][0-9])(?<![_^][0-9]{2})|(?<=\)))\s*(?=\((?:[^(),]|\([^(),]*\))*\))",
        r" \\cdot ",
    ),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"\\not\s*=|(?<![0-9)}])!=", r"\\neq "),
    (
        r"\A.*[<>|:].*\Z|\A.*\\(?:[lg]eq?|[lg]t)(?![A-Za-z]).*\Z",
        lambda found: joined(found.group().strip()),
    ),
    (r"\^\s*\{?\s*\\prime\s*\}?", "'"),
    (
        rf"(?:\\|(?<![A-Za-z\\]))(?P<name>{_TRIGONOMETRIC})(?P<power>\s*\^\s*(?:[0-9]|\{{[0-9]\}}))?\s*"
        rf"(?:\(\s*{_IN_DEGREES}\s*\)|\{{\s*{_IN_DEGREES}\s*\}}|{_IN_DEGREES}(?!\s*[0-9]))",
        _in_radians,
    ),
    (r":=|==", "="),
    (
        rf"(?<![0-9.,])(?P<whole>[0-9]{{0,20}})\.(?P<fixed>[0-9]{{0,20}}?)(?:{_PERIOD}|{_ELLIPSIS})",
        _as_fraction,
    ),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
    (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<![A-Za-z\\])(?i:inf(?:ty|inity)?)(?![A-Za-z])", r"\\infty "),
    (r"(?<=[)\]}])\s*U\s*(?=[(\[\\])", r" \\cup "),
    (
        rf"(?<![A-Za-z\\])({_FUNCTIONS})(?=\s*(?:[({{\\0-9^_]|[A-Za-z](?![A-Za-z])))",
        r"\\\1 ",
    ),
    (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (
        rf"\s*,?\s*(?:{_LATEX_TEXT}\s*\{{\s*(?:or|and)\s*\}}|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z]))\s*",
        ", ",
    ),
    (
        r"\A(?i:(?:the\s+)?(?:set\s+of\s+)?(?:all|the)\s+real(?:s|\s+numbers))(?=\Z|\s+(?i:except|but)\b)",
        r"\\mathbb{R}",
    ),
    (
        r"\A(\\mathbb\{R\})\s+(?i:except|but)(?:\s+for)?\s+(?:[a-z]\s*=\s*)?([-+0-9/.]+(?:\s*,\s*[-+0-9/.]+)*)\s*\Z",
        r"\1 \\setminus \\{\2\\}",
    ),
    (
        rf"{_DEGREES}(?!\s*[0-9])|\\?%",
        "",
    ),
    (rf"(?<=[0-9])\s*{_LATEX_TEXT}\s*\{{\s*((?i:{SCALE})s?\b[^{{}}]*)\}}", r" \1 "),
    (rf"(?<=[0-9])(\s+(?i:{SCALE})s?){_UNIT}\s*\Z", r"\1"),
    (
        rf"(?:(?:(?<=[0-9}})])|(?<=\\pi))\s*{_TEXT_OF_UNIT}|(?<=[0-9]){_UNIT})(?:\^\{{?[23]\}}?)?\s*\Z",
        "",
    ),
    (rf"{_LATEX_TEXT}\s*\{{([^{{}}]*)\}}", r"\1"),
)
_SPACES = re.compile(r"\s{2,}")
_EDGE = re.compile(r"\A(?:[ ,;:*_]|\.(?![0-9])|=(?!=))+")
_CLEANING = tuple((re.compile(pattern), replacement) for pattern, replacement in _RULES)

_TOKEN = re.compile(
    r"(?P<opening>\\begin(?![A-Za-z])|\\langle|\\\{|[(\[{])|(?P<closing>\\end(?![A-Za-z])|\\rangle|\\\}|[)\]}])"
    r"|(?<=[0-9]),(?=[0-9]{3}(?![0-9]))|\\(?:[A-Za-z]+|.)|(?P<mark>[=,;])"
)


def cleaned(text: str) -> str:
    """LaTeX without delimiters, spacing, units, percent and degree signs; empty if cleaning does not settle."""
    for _ in range(_MAX_ROUNDS):
        before = text
        text = _FRACTION_BEFORE_FACTOR.sub(_as_factor, text)
        text = to_ascii(text).translate(_UNICODE)
        for pattern, replacement in _CLEANING:
            # Patterns with several runs of white space take long on a long run.
            text = _SPACES.sub(" ", pattern.sub(replacement, text))
        # A point before a digit belongs to it.
        text = _EDGE.sub("", " ".join(text.split())).rstrip(" .,;:*_")
        if text == before:
            return text
    return ""


def is_closed(text: str) -> bool:
    """Whether every bracket of a text has its partner in it, of any form, since ``[1,2)`` is an interval."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token["opening"] is not None) - (token["closing"] is not None)
        if depth < 0:
            return False
    return depth == 0


def split(text: str, marks: str, *, has_groups: bool = True) -> list[str]:
    """The parts of a text between marks outside of brackets; with ``has_groups``, thousands commas are not marks."""
    parts, start, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        depth += (token["opening"] is not None) - (token["closing"] is not None)
        is_mark = token.group() in marks and (token["mark"] is not None or not has_groups)
        if depth == 0 and is_mark:
            parts.append(text[start : token.start()].strip())
            start = token.end()
    return [*parts, text[start:].strip()]
