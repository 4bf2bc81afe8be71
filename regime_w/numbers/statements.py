"""Reads a line that gives one number, such as ``x = $1,080.00 per year``.

From a text to its canonical number, or None where it gives none or more than one: models are rewarded for
it, so nothing is guessed. Every step works on a text of bounded length.
"""

import re

from regime_w.numbers.markup import without_markup
from regime_w.numbers.numerals import MAX_DIGITS, NUMBER, SCALE, canonical, value_of

MAX_LINE = 3 * MAX_DIGITS
"""Longer lines are prose; also the length of the window around a text's last number."""

_HEDGE = re.compile(
    r"\b(?:or|not|cannot|\w+n['’]t|never|neither|nor|maybe|perhaps|probably|possibly|unsure|unknown"
    r"|at least|at most|approx|approximately|roughly|if|unless|but|wrong|incorrect)\b"
    r"|[?~<>≈≃≅±∓≠≤≥]|!=|\\(?:approx|sim|pm|mp|neq?|leq?|geq?|lt|gt)\b|\.\.|…",
    re.IGNORECASE,
)
_LIST = re.compile(r"[,;](?!\d{3})|(?:=|\bis\b).*\band\b")
_DISCOURSE = re.compile(r"\s*(?:so|thus|therefore|hence|finally|then)\b,?", re.IGNORECASE)

_CURRENCY = (
    r"(?:(?:US|CA|AU|NZ|HK|[ACSR])?\$|[€£¥₹₩₽₱₫฿₺¢]"
    r"|\b(?:USD|EUR|GBP|JPY|INR|CNY|RMB|CAD|AUD)\b|\bRs\b\.?)"
)
_STATEMENT = re.compile(
    rf"""
    \s*+
    (?:                                # the number at once, or after a lead-in without digits
        [^\d:]*\b(?:is|are|was|were|be|equals?|answer|result|total)\b\s*+:?
      | [^\d:]*:
    )?
    [\s$(\[{{]*+
    (?P<sign>[+-]?) \s*+
    (?:{_CURRENCY}[\s$]*+)?
    (?P<late_sign>[+-]?)
    {NUMBER}
    (?P<rest>.*)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)

_UNIT_WORD = r"[^\W\d_⁰¹²³⁴-⁹][^\W\d_.'°²³-]*+(?:[.'/-][^\W\d_.'°²³-]++)*+(?:\^\{?[23]\}?|[²³])?\.?"
_REST = re.compile(
    rf"""
    \s*+ (?: % | ° | {_CURRENCY} )?
    (?: [\s$()\[\]{{}}]*+ [/-]?\s? °? {_UNIT_WORD} ){{0,8}}+
    [\s$)\]}}]*+ (?:{_CURRENCY})? [\s.,;!)\]}}]*+ \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Words after a number that make it a part of something else: a verb, a sum, a compound
# ("2 hours thirty minutes"), a clock time, a variable.
_NOT_UNITS = re.compile(
    rf"(?<![^\W\d_])(?:(?i:is|are|was|were|and|plus|minus|remainder|a\.?m|p\.?m|o'clock|pi|π"
    r"|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    r"|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
    rf"|half|{SCALE}s?|bn|mn|mln|mil|tn)|[xyznkKMB])(?![^\W\d_])"
)
_IS_THE_ANSWER = re.compile(r"\bis (?:the|my|our) (?:final |correct )?answer\b", re.IGNORECASE)

_PARTS = (
    r"(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|twelfth|sixteenth|twentieth"
    r"|hundredth|thousandth|millionth)"
)
# Right after a number these make another one of it, in a line and in prose. "18 third graders" and
# "18 quarter-pound burgers" are 18 of them.
_OTHER_NUMBER = re.compile(
    rf"""
    [\s-]* (?: halves | half | {_PARTS}s | {_PARTS} (?= \s*(?:of\b|[.,;!)$]|\Z) ) | squared | cubed
      | factorial | doubled | tripled | halved | to\ the\ \w+\ power | {SCALE}s? | [ap]\.?m
      | o'clock ) (?![^\W\d_])
    """,
    re.VERBOSE | re.IGNORECASE,
)
# The same where a number stands in prose, of which nothing else is checked: a clock time or a ratio, a
# power, a base (204_5), a date, a multiple of x, k or a root. "18 M&Ms" are 18.
_CONTINUED = re.compile(
    r"[:/.,']\d|\s?\^|_\{?\w|[⁰¹²³⁴-⁹]|[xyznkKMB](?![^\W\d_])|\s*(?:\\?pi\b|π|\\?sqrt\b|√)"
)
_CONTINUES = re.compile(
    r"(?:\d[:/.,']|(?:\\?sqrt\s*(?:\[\d+\])?|√)\s*[({]?|\b(?:(?:square|cube)\ root\ of|negative))\s*\Z",
    re.IGNORECASE,
)
# In prose a digit counts unless it belongs to a name (x_1, H2O) or is an exponent (cm^2).
_NOT_IN_A_NAME = r"(?<![A-Za-z0-9_^])(?<![\^_]\{)"
_LOOSE_DIGITS = re.compile(rf"{_NOT_IN_A_NAME}[0-9]++")
_LOOSE_NUMBER = re.compile(
    rf"(?: (?<![\w)\]}}.]) (?P<sign>[+-]) {_CURRENCY}? | {_NOT_IN_A_NAME} ) {NUMBER}",
    re.VERBOSE | re.IGNORECASE,
)


def begins_with_number(text: str) -> bool:
    """Whether a text without markup gives a number at once, or after words without digits."""
    return _STATEMENT.match(text) is not None


def has_hedge(text: str) -> bool:
    """Whether a text doubts, negates or bounds its number, or offers another."""
    return _HEDGE.search(text) is not None


def read_line(line: str) -> str | None:
    """Reads a line that gives one number: ``x = $1,080.00 per year`` is 1080, ``3-5`` is None."""
    line = line.strip()
    if len(line) > MAX_LINE:
        return None
    line = without_markup(line)
    if has_hedge(line):
        return None
    left, equals, right = line.rpartition("=")
    if equals and _LIST.search(_DISCOURSE.sub("", left, count=1)):
        return None
    statement = _STATEMENT.fullmatch(right)
    if statement is None:
        return None
    if statement["sign"] and statement["late_sign"]:
        return None
    rest = _IS_THE_ANSWER.sub("", statement["rest"])
    if _OTHER_NUMBER.match(rest) or not _REST.match(rest) or _NOT_UNITS.search(rest):
        return None
    return _signed_value(statement, statement["sign"] or statement["late_sign"])


def read_last_number(text: str) -> str | None:
    """Reads the last number of prose; None where it is a part of another, as in ``12:00``."""
    digits = last_match(_LOOSE_DIGITS, text)
    if digits is None:
        return None
    window = without_markup(text[max(0, digits.end() - MAX_LINE) : digits.end() + MAX_DIGITS])
    number = last_match(_LOOSE_NUMBER, window)
    if (
        number is None
        or _CONTINUES.search(window[max(0, number.start() - 20) : number.start()])
        or _CONTINUED.match(window, number.end())
        or _OTHER_NUMBER.match(window, number.end())
    ):
        return None
    return _signed_value(number, number["sign"])


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match of a pattern in a text."""
    return [None, *pattern.finditer(text)][-1]


def _signed_value(match: re.Match[str], sign: str | None) -> str | None:
    value = value_of(match)
    if value is None:
        return None
    return canonical(-value if sign == "-" else value)
