"""Reads a line that gives one number, such as ``x = $1,080.00 per year``.

From a text to its canonical number, or None if it gives none or more than one: models are rewarded for the
answer, so nothing is guessed. Every step works on a text of bounded length.
"""

import re

from regime_w.numbers.continuations import has_numeral, is_continued
from regime_w.numbers.number_words import in_words
from regime_w.numbers.numerals import MAX_DIGITS, NUMBER, SCALE, canonical, value_of
from regime_w.numbers.unknowns import asks_for_unknown
from regime_w.texts.denials import has_hedge
from regime_w.texts.markup import without_markup

MAX_LINE = 3 * MAX_DIGITS
"""Longer lines are prose; also the length of the window before a text's last number."""

_LIST = re.compile(r"[,;](?!\d{3})|(?:=|\bis\b).*\band\b")
_DISCOURSE = re.compile(r"\s*(?:so|thus|therefore|hence|finally|then)\b,?", re.IGNORECASE)

CURRENCY = (
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
    (?:{CURRENCY}[\s$]*+)?
    (?P<late_sign>[+-]?)
    {NUMBER}
    (?P<rest>.*)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)

_SIGN_WORD = re.compile(
    r"(\A|[=:]|\b(?:is|are|was|were|be|equals?)\b)([\s$(\[{]*+)(?:minus|negative)\s++(?=\D?[0-9.])",
    re.IGNORECASE,
)
_UNIT_WORD = r"[^\W\d_⁰¹²³⁴-⁹][^\W\d_.'°²³-]*+(?:(?=[.'/-][^\W\d_.'°²³-])[.'/-][^\W\d_.'°²³-]++)*+(?:\^\{?[23]\}?|[²³])?\.?"
_REST = re.compile(
    rf"""
    \s*+ (?: % | ° | {CURRENCY} )?
    (?: [\s$()\[\]{{}}]*+ [/-]?\s? °? {_UNIT_WORD} ){{0,8}}
    [\s$)\]}}]*+ (?:{CURRENCY})? [\s.,;!)\]}}]*+ \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NUMBER_WORDS = (
    r"zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    r"|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|half"
)
# Words after a number that make it a part of something else: a verb, a sum, a compound
# ("2 hours thirty minutes"), a clock time, a variable.
_VERB = re.compile(r"\b(?:is|are|was|were|and)\b", re.IGNORECASE)
_NOT_UNITS = re.compile(
    rf"(?<![^\W\d_])(?:(?i:plus|minus|remainder|a\.?m|p\.?m|o'clock|pi|π|{_NUMBER_WORDS}"
    rf"|{SCALE}s?|bn|mn|mln|mil|tn)|[xyznkKMB])(?![^\W\d_])"
)
_IN_WORDS = re.compile(
    rf"\s*(?:(?:minus|negative)\s)?(?:{_NUMBER_WORDS}|dozen|hundred|thousand|twice)\b",
    re.IGNORECASE,
)
_IN_DOUBT = re.compile(
    rf"""
    \s* (?: (?:about|approximately|approx\.?|roughly|around|nearly|almost|close\ to|at\ (?:least|most)
      |(?:no\ )?(?:more|less|fewer)\ than|one\ of|both|neither|either) \s+ {CURRENCY}? \s* [0-9]
      | (?:up\ to|over|under|above|below) \s+ {CURRENCY}? \s* [0-9][0-9.,]*+ (?:\s[a-z]++){{0,2}} \s* \Z )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_IS_THE_ANSWER = re.compile(r"\bis (?:the|my|our) (?:final |correct )?answer\b", re.IGNORECASE)

_SPELLING = re.compile(r"\(\s*([A-Za-z]++(?:[\s,-]++[A-Za-z]++)*)\s*\)")
_AND = re.compile(r"[\s,-]++(?:and\b)?")
# A gold answer has no exclamation marks, ordinals, dates or multiples: "5!", "5th", "5 May", "2 dozen".
_NOT_GOLD = re.compile(
    r"""
    [\s-]* (?:st|nd|rd|th)\b
  | \s* (?: ! | (?:dozens?|gross|scores?)\b
      | (?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?
          |oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b )
    """,
    re.VERBOSE | re.IGNORECASE,
)


def begins_with_number(text: str) -> bool:
    """Whether a text without markup begins with a number, or with a lead-in without digits and then one."""
    return _STATEMENT.match(_with_signs(text)) is not None


def is_in_words_or_doubt(text: str) -> bool:
    """Whether a sentence without markup begins with a number in words or in doubt: "eighteen", "about 18"."""
    in_words = _IN_WORDS.match(text) and not any(map(str.isdigit, text))
    return bool(in_words) or _IN_DOUBT.match(text) is not None


def has_other_numbers(text: str) -> bool:
    """Whether a text without digits has numbers in words, or words that make another number of one."""
    return _NOT_UNITS.search(text) is not None


def read_line(line: str) -> str | None:
    """Reads a line that gives one number: ``x = $1,080.00 per year`` is 1080, ``3-5`` is None."""
    return _read(line, is_gold=False)


def read_gold_line(line: str) -> str | None:
    """Reads a line of a gold answer: as `read_line`, but None for what may be another number, such as ``5!``."""
    return _read(line, is_gold=True)


def _read(line: str, *, is_gold: bool) -> str | None:
    line = line.strip()
    if len(line) > MAX_LINE:
        return None
    line = without_markup(line)
    if has_hedge(line):
        return None
    left, equals, right = line.rpartition("=")
    if equals and (_LIST.search(_DISCOURSE.sub("", left, count=1)) or asks_for_unknown(left)):
        return None
    statement = _STATEMENT.fullmatch(_with_signs(right))
    if statement is None:
        return None
    if statement["sign"] and statement["late_sign"]:
        return None
    value = signed_value(statement, statement["sign"] or statement["late_sign"])
    rest = _without_spelling(_IS_THE_ANSWER.sub("", statement["rest"]), value)
    if (
        is_continued(statement.string, statement.start("rest"))
        or has_numeral(rest)
        or not _REST.match(rest)
        or _VERB.search(rest)
        or has_other_numbers(rest)
    ):
        return None
    if is_gold and _NOT_GOLD.match(rest):
        return None
    return value


def _without_spelling(rest: str, value: str | None) -> str:
    """What follows a whole number, without the same number in words: "42 (forty-two)"."""
    spelling = _SPELLING.search(rest)
    digits = (value or "").lstrip("-")
    if spelling is None or not digits.isdigit():
        return rest
    said = " ".join(_AND.sub(" ", spelling[1].lower()).split())
    words = in_words(int(digits))
    if said != words and not said.startswith(words + " "):
        return rest
    return f"{rest[: spelling.start()]} {said[len(words) :]}{rest[spelling.end() :]}"


def signed_value(match: re.Match[str], sign: str | None) -> str | None:
    """The canonical value of a match of `NUMBER` with its sign."""
    value = value_of(match)
    if value is None:
        return None
    return canonical(-value if sign == "-" else value)


def _with_signs(text: str) -> str:
    """Writes "minus" or "negative" before a value as a sign: in "minus 5", but not in "9 minus 5"."""
    return _SIGN_WORD.sub(r"\1\2 -", text)
