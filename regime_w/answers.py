r"""Finds the answer in a text and reads it exactly.

The answer's position is that of the first rule that applies:

1. After the last ``####``: its line, or the next if that is empty. The rest is ignored.
2. In the last ``\boxed{}``.
3. After the last "answer is" that a number follows.
4. The last number.

Rules 1 to 3 take the answer only from a line that clearly gives one number (`_read_line`).
Models are rewarded for the answer, so an ambiguous line gives none. Every step works on a window of
bounded length or scans the text once: time is linear in the text.
"""

import re

from regime_w.numbers.numerals import MAX_DIGITS, NUMBER, canonical, to_ascii, value_of

_MARKER = "####"
_MAX_LINE = 3 * MAX_DIGITS
"""Longer lines are prose; also the length of the window around the last number."""

_ANSWER_IS = re.compile(
    r"\banswer\b[*_ ]{0,3}(?:is|was|equals|would be|:|=)[*_: ]{0,4}\n?", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!](?=\s|\Z)")
_EXPLANATION = re.compile(r"[,;(](?=\s*[A-Za-z])| (?:because|since|as|which|so) ")
_PROMPT_ECHO = re.compile(r"(?:format|end with)\s*[:*]*\s*['\"`]\s*\Z", re.IGNORECASE)

_CLEANING: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"<<[^<>]*>>", ""),  # GSM8K's calculator annotations
        (r"</?[A-Za-z_]+>|<\|[A-Za-z_]+\|>", " "),  # HTML and end-of-text tags
        (r"\{,\}", ","),
        (r"\\!", ""),
        (r"\\[dtc]?frac\s*([0-9])\s*([0-9])", r" \1/\2"),
        (r"\\[dtc]?frac\s*\{\s*([+-]?[0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}", r" \1/\2"),
        (r"(?:\^\{?\s*)?\\(?:circ|degree)\b\}?", "°"),
        (r"\\(?:left|right|displaystyle|quad|qquad)\b|\\[,;: ()\[\]]|(?<=[0-9])~", " "),
        (r"\\([$%])", r"\1"),
        # Before emphasis is removed: its two spaces keep "3 *600" from being read as 3 600.
        (r"\s+", " "),
        # Emphasis and quotes, but never an operator: 2**3 and 3 * 6 must not lose theirs.
        (r"(?<![\w)*])[*_`\"]+(?=\S)|(?<=\S)[*_`\"]+(?![\w(*])", " "),
        (r"(?<!\w)'|(?<=\w)'(?!\w)", " "),
        (r" {3,}", "  "),
    )
)
# Lines that no rule above or below changes; most are.
_PLAIN = re.compile(r"(?:[0-9A-Za-z.,$%:=+/-]| (?! ))*+")
# Innermost first, so three passes undo $\boxed{\textbf{18}\text{ km}}$ and deeper.
_LATEX_GROUP = re.compile(
    r"\\(?:boxed|fbox|mbox|emph|(?:text|math)(?:bf|rm|it|tt|sf|up|normal)?|operatorname|bm)"
    r"\s*\{([^{}]*)\}"
)

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
    r"(?<![^\W\d_])(?:(?i:is|are|was|were|and|plus|minus|remainder|a\.?m|p\.?m|o'clock|pi|π"
    r"|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty"
    r"|fifty|sixty|half|hundred|thousand|million|billion|trillion)|[xyznkKMB])(?![^\W\d_])"
)
_IS_THE_ANSWER = re.compile(r"\bis (?:the|my|our) (?:final |correct )?answer\b", re.IGNORECASE)

# In prose a digit counts unless it belongs to a name (x_1, H2O) or is an exponent (cm^2).
_NOT_IN_A_NAME = r"(?<![A-Za-z0-9_^])(?<!\^\{)"
_LOOSE_DIGITS = re.compile(rf"{_NOT_IN_A_NAME}[0-9]++")
_LOOSE_NUMBER = re.compile(
    rf"(?: (?<![\w)\]}}.]) (?P<sign>[+-]) {_CURRENCY}? | {_NOT_IN_A_NAME} ) {NUMBER}",
    re.VERBOSE | re.IGNORECASE,
)


def extract_answer(text: str) -> str | None:
    r"""Extracts the canonical numeric answer of a completion or of a gold solution.

    Never raises, never evaluates; text that cannot be read exactly gives no answer.

    Example:
        >>> extract_answer("9 * 2 = 18\n#### $1,018.00")
        '1018'
        >>> extract_answer("#### 18 or 26") is None
        True

    Args:
        text: Completion without its prompt (which itself says ``#### 42``), or gold solution.

    Returns:
        The answer in the form of `regime_w.numbers.numerals.canonical`, or None if there is none.
    """
    text = to_ascii(text)
    before, marker, tail = text.rpartition(_MARKER)
    if marker:
        return _read_marked(before, tail)
    _, box, tail = text.rpartition("\\boxed{")
    if box:
        content = _up_to_closing_brace(tail[:_MAX_LINE])
        return None if content is None else _read_line(content)
    return _read_unmarked(text)


def answers_agree(a: str | None, b: str | None) -> bool:
    """Whether two canonical answers are equal; None agrees with nothing, not even itself."""
    return a is not None and a == b


def _read_marked(before: str, tail: str) -> str | None:
    # A repeated prompt ("in the format '#### 42'") is not an answer.
    if _PROMPT_ECHO.search(before[-40:]):
        return None
    lines = [*tail.splitlines()[:2], "", ""]
    return _read_line(lines[0] if lines[0].strip(" \t*_:") else lines[1])


def _up_to_closing_brace(text: str) -> str | None:
    depth = 1
    for position, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[:position]
    return None


def _read_unmarked(text: str) -> str | None:
    stated = _last_match(_ANSWER_IS, text)
    if stated:
        line = text[stated.end() : stated.end() + _MAX_LINE].partition("\n")[0]
        sentence = _clean(_SENTENCE_END.split(line, maxsplit=1)[0])
        if _STATEMENT.match(sentence):
            return None if _HEDGE.search(sentence) else _read_line(_first_clause(sentence))
    digits = _last_match(_LOOSE_DIGITS, text)
    if digits is None:
        return None
    window = text[max(0, digits.end() - _MAX_LINE) : digits.end() + MAX_DIGITS]
    number = _last_match(_LOOSE_NUMBER, _clean(window))
    return _signed_value(number, number["sign"]) if number else None


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return [None, *pattern.finditer(text)][-1]


def _first_clause(sentence: str) -> str:
    """Removes an explanation: ``18, since 9 * 2 = 18`` and ``18 because …`` become ``18``."""
    return _EXPLANATION.split(sentence, maxsplit=1)[0]


def _read_line(line: str) -> str | None:
    """Reads a line that gives one number: ``x = $1,080.00 per year`` is 1080, ``3-5`` is None."""
    line = line.strip()
    if len(line) > _MAX_LINE:
        return None
    line = _clean(line)
    if _HEDGE.search(line):
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
    if not _REST.match(rest) or _NOT_UNITS.search(rest):
        return None
    return _signed_value(statement, statement["sign"] or statement["late_sign"])


def _clean(text: str) -> str:
    """Strips markup: LaTeX, emphasis, quotes, tags, runs of spaces."""
    if _PLAIN.fullmatch(text):
        return text
    for _ in range(3):
        text = _LATEX_GROUP.sub(r" \1", text)
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    return text


def _signed_value(match: re.Match[str], sign: str | None) -> str | None:
    value = value_of(match)
    if value is None:
        return None
    return canonical(-value if sign == "-" else value)
