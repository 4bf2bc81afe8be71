r"""Text beside a number that makes it another number, or part of one: ``3 thirds``, ``5 million``, ``log(5)``.

From a text without markup and the end of a number in it, or the text before it, to a yes or no. Any noun may follow a
number, but the words that turn it into another number can be listed, at least for the languages considered here.
"""

import re
import unicodedata

from regime_w.numbers.numerals import SCALE
from regime_w.texts.blocks import KINDS

# Words that multiply the number before them, in the languages that models mix in.
_MULTIPLIERS = (
    rf"{SCALE}s? | bn | mn | mln | mil | mill | mio | bil | thou | tn | doz | mrd | mld"
    r"| (?-i:MM) | grand (?! \s (?:pianos?|total|prix|slams?)\b )"
    r"| mil+[ijyh]?[oóõã]\w* | mil+i?j?ard\w* | milyar\w*"
    r"| (?:b|tr|quadr|quint|sext|sept|oct|non|dec|z|gaz)il+i?[oó]n\w*"
    r"| tausend | hundert | duizend | honderd | tusen | tusind | hundra | mille | mila | tys | tys[ií][aąęc]\w*"
    r"| tisíc\w* | ribu | juta | nghìn | ngàn | triệu | tỷ | ezer"
    r"| тыс\w* | тисяч\w* | млн | млрд | трлн | миллион\w* | миллиард\w* | мільйон\w* | мільярд\w* | сотн\w* | сотен"
    r"| χιλιάδες | εκατομμύρι\w* | ألف | آلاف | مليون | ملايين | مليار | هزار | میلیون | אלף | מיליון"
    r"| हज़ार | हजार | लाख | करोड़ | tsd | tuhat\w* | hiljad\w* | хиљад\w* | хиляд\w*"
    r"| dutzend | dtzd | douzaines? | docenas? | dozzin[ae] | dúzias? | tucat | дюжин\w* | lusin | düzine"
)
_TENS = r"(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)"
_PART = (
    rf"(?: (?:{_TENS}[\s-])? (?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth) | tenth | eleventh | twelfth"
    r"| (?:thir|four|fif|six|seven|eigh|nine)teenth | (?:twen|thir|for|fif|six|seven|eigh|nine)tieth"
    r"| (?:hundred|thousand|million|billion)th )"
)
_GROUPS = (
    r"ones|twos|threes|fours|fives|sixes|sevens|eights|nines|tens|elevens|twelves"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ties"
)
_END = r"\s*(?:\.(?![A-Za-z])|-(?![A-Za-z]{2})|[+*/^=,;!)$\]}]|\Z)"
_LETTER = r"[^\W\d_]"
# "18 third graders" and "18 quarter-pound burgers" are 18 of them.
_CONTINUATION = re.compile(
    rf"""
    [\s-]* (?: halves | half | {_PART}s | {_PART} (?= \s*(?:of\b|[.,;!)$}}]|\Z) ) | {_GROUPS} | squared | cubed
      | factorial | doubled | tripled | halved | to\ the\ \w+\ power | times\ (?:itself|themselves)
      | (?:multiplied|divided|increased|decreased|reduced|raised)\ (?:by|to) | (?:square|cubic|cube) (?={_END})
      | {_MULTIPLIERS} | (?:gross|score) (?= {_END} | \ (?:of|and)\b ) | (?:per\ ?|pro)mille
      | [ap]\.?m | o'clock | uhr | (?:noon|midnight) (?={_END}) ) (?!{_LETTER})
  | \s? (?:พัน|หมื่น|แสน|ล้าน|만|억|조(?!각)|천|백만|半|打|ダース|다스|‰)
  | (?:\s{_LETTER}{{1,10}})? \s (?:and|plus) \s (?:(?:an?|one|two|three)\s)? (?:half | (?<!and\ )(?:third|quarter)s?) (?!\ of\b|-|{_LETTER})
  | \s? \(?\\? [bp]?mod(?:ulo)?\b | \s (?:\(|in\s|\(in\s)? base [\s-]? [0-9] | \s (?:\(|in\s|\(in\s) (?:binary|octal|hex(?:adecimal)?)\b
  | (?:\s?°\s?[CF]? | \sdegrees(?:\s[a-z]+)?)? \s (?:below|under) (?: \s(?:zero|freezing|0)\b | (?={_END}) )
  | \s(?-i:R)\s?[0-9] | [:/.,']\d | \s?\^ | _\{{?\w | [⁰¹²³⁴-⁹]           # a clock time, a date, a power, a base (204_5)
  | (?-i:[xyznkKMB]) (?!{_LETTER}) | (?:[a-d]|[x-z]){{3}} (?!{_LETTER})
  | (?<=[12][0-9][0-9]0) '?s (?!{_LETTER})            # the 1990s
  | (?! [cdkm]?m[23](?!\w) | (?:ft|in)[23](?!\w) ) {_LETTER}{{1,12}}+ [0-9]       # 2h30
  | \s* (?: π | √ | \\? (?:pi\b | sqrt(?![^\W\d_])) | \\ (?:times|cdot|div|[dt]?frac|binom|ln|log|sin|cos|tan|exp|alpha|beta
      |gamma|delta|theta|lambda|mu|sigma|tau|phi|omega)\b )
  | \s* (?: [*×÷·+]\s? [A-Za-zα-ω\\(√] | -\s?[b-z](?![\w']) )
    """,
    re.VERBOSE | re.IGNORECASE,
)
# One or two letters that end the text after a number are a variable, unless they are a unit, a word or an acronym.
_SYMBOL = re.compile(rf"(?!\s[A-Z]{{2}})\s?([A-Za-zα-ω]{{1,2}})(?={_END})")
_UNIT = re.compile(
    r"""
    [gmlshpcdt] | [mcdk]m | nm | um | [mkcd]g | [mcdkh]l | ft | in | yd | mi | oz | lb | pt | qt | hr | sq | cc | pg | pp | ct | ea
    | wk | yr | mo | pa | hz | [kmg]w | kv | [km]j | kn | [kmgt]b | [mn]s | db | ha | ac | st | nd | rd | th | rs | kr | wh
    | ah | ma | mv | hp | pc | of | so | up | by | on | at | to | as | it | is
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CAPITAL_UNIT = re.compile("[ACFJLNVW]")
_WORD = re.compile(r"\s?(\w{1,20}+)")
_RECURRING = re.compile(r"\.[0-9]++\s?(?:\.\.|…)")
_FUNCTION = r"(?:log|ln|lg|sin|cos|tan|cot|sec|csc|exp|gcd|lcm|det|max|min)"
_LEAD = re.compile(
    rf"""
    (?: [0-9](?:[:.,']|\s?/) | [0-9]-[0-9]{{1,2}}-
      | [0-9]\.[0-9]*+ (?: \( | \s?\\?(?:overline|bar|dot)\s?\{{ )            # 0.(3)
      | (?:\\?sqrt\s*(?:\[\d+\])?|√)\s*[({{]? | [±∓] | \+/-? | \+- | \\(?:pm|mp)\b | [0-9)] \s? (?: [+*x×·]\*? | \\(?:times|cdot|div) ) | [0-9)]\ (?:times|plus|(?:divided|multiplied)\ by)
      | [0-9]\ (?:score|dozen|gross)\ and | \b(?: (?:square|cube)\ root\ of | negative | minus | (?:{KINDS}|choice|equation)s?\s*(?:no\.|number|\#)?\s*\(? )
      | \bmod(?:ulo)? | \\[bp]?mod\b | [0-9]\ \(?(?:in\ )?base[\s-] | [0-9](?:\ ?°?[CF]?|\ degrees(?:\ [a-z]+)?)\ (?:below|under)
      | \b (?:(?:half|quarter|ten|five|twenty(?:-five)?)\ past | quarter\ (?:to|of))
      | [0-9],? \s* (?:with\ )?(?:an?\ )?(?: remainder(?:\ of)? | rem\.? | r\.? )
      | \b[a-z]\( | \\{_FUNCTION}(?:_\{{?\w{{1,4}}\}}?)? | \blog_\w{{1,4}} | \b(?:ln|sin|cos|tan)
      | \b{_FUNCTION}(?:_\w{{1,4}})? \s? \([^()]{{0,60}}
    ) [\s$€£¥]*+ \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
_UNIT_KINDS = {
    "time": "year yr month week wk day hour hr h minute min m second sec s",
    "length": "kilometer kilometre km meter metre m centimeter centimetre cm mm mile mi yard yd foot feet ft inche inch in",
    "mass": "kilogram kg gram g ton pound lb ounce oz stone",
    "volume": "gallon gal quart qt pint pt cup litre liter l ml ounce oz tablespoon teaspoon",
    "money": "dollar cent euro pound pence penny pennie rupee paise dime nickel quarter",
}
_FIRST_PART = re.compile(
    r"(?:(?P<money>\$|€|£)[0-9][0-9,]*+|[0-9]\s?(?P<unit>[A-Za-z]{1,10})\.?)(?P<joint>,?\s{1,3}(?:and\s|&\s)?)\Z"
)
_SECOND_UNIT = re.compile(r"\s{0,3}([A-Za-z]{1,10})")
_RANGE = re.compile(r"[0-9]-\s[A-Za-z]")
_MAX_DECIMALS = 30
_MAX_LEAD = 80
_METRIC = re.compile("千(?=[克米瓦卡])")
"""The Chinese prefix for "kilo", which is also the numeral 1000."""


def is_continued(text: str, end: int) -> bool:
    """Whether what follows a number makes it another number or part of one.

    Args:
        text: Text without markup.
        end: Where the number ends.
    """
    if _CONTINUATION.match(text, end):
        return True
    symbol = _SYMBOL.match(text, end)
    if symbol and not _is_unit(symbol[1]):
        return True
    point = text.rfind(".", max(0, end - _MAX_DECIMALS), end)
    if point >= 0 and _RECURRING.match(text, point):
        return True
    word = _WORD.match(text, end)
    return word is not None and has_numeral(word[1].rstrip("²³"))


def is_part(before: str, behind: str) -> bool:
    """Whether the text before a number makes it part of another: ``12:``, ``log(``, ``5 hours`` before 30 minutes.

    Args:
        before: Text without markup, of bounded length.
        behind: The text that follows the number.
    """
    if _LEAD.search(before[-_MAX_LEAD:]) or (
        before[-1:] == "-" and _RANGE.match(before[-2:] + behind)
    ):
        return True
    first = _FIRST_PART.search(before)
    if first is None:
        return False
    second = _SECOND_UNIT.match(behind)
    units = [first["unit"] or "dollar", second[1] if second else ""]
    units = [unit.lower().removesuffix("s") if len(unit) > 1 else unit for unit in units]
    if not second:
        return first["joint"].isspace() and units[0] in ("hour", "h", "hr", "foot", "feet", "ft")
    return units[0] != units[1] and any(
        {*units} <= {*kind.split()} for kind in _UNIT_KINDS.values()
    )


def has_numeral(text: str) -> bool:
    """Whether a text has a character beyond ASCII that stands for a number, such as 万 or ₂, other than ``²`` and ``³``."""
    if text.isascii():
        return False
    rest = _METRIC.sub("", text)
    return any(char not in "²³" and char > "\x7f" and _is_numeric(char) for char in rest)


def _is_unit(symbol: str) -> bool:
    units = _CAPITAL_UNIT if len(symbol) == 1 and symbol.isupper() else _UNIT
    return units.fullmatch(symbol) is not None


def _is_numeric(char: str) -> bool:
    return unicodedata.numeric(char, None) is not None
