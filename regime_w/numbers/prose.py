"""Reads the last number of a text that marks no answer.

From a text to its canonical number. Only the last digits are searched for in the whole text; everything else looks
at a window of bounded length around them.
"""

import re

from regime_w.numbers.continuations import has_numeral, is_continued, is_part
from regime_w.numbers.numerals import MAX_DIGITS, NUMBER
from regime_w.numbers.statements import (
    CURRENCY,
    MAX_LINE,
    has_other_numbers,
    signed_value,
)
from regime_w.numbers.unknowns import asks_for_unknown
from regime_w.texts.completions import STRUCK
from regime_w.texts.denials import (
    has_hedge,
    has_no_answer,
    is_denied,
    is_first_try,
    is_one_of_several,
)
from regime_w.texts.markup import without_markup
from regime_w.texts.sentences import last_match

# Marks that close a quotation, emphasis, mathematics or an element may follow the full stop.
CLOSING_MARKS = r"(?:[*_\"'`$)\]}]|\\[)\]]|</[A-Za-z]{1,10}>){0,20}"
SENTENCE_END = re.compile(rf"(?<!\bi\.e)(?<!\be\.g)[.!](?={CLOSING_MARKS}(?:\s|\Z))")

# In prose a digit counts unless it belongs to a name (x_1, H2O) or is an exponent (cm^2).
_NOT_IN_A_NAME = r"(?<![A-Za-z0-9_^])(?<![\^_]\{)"
_LOOSE_DIGITS = re.compile(rf"{_NOT_IN_A_NAME}[0-9]++")
_LOOSE_NUMBER = re.compile(
    rf"(?: (?<![\w)\]}}.]) (?P<sign>[+-]) {CURRENCY}? | {_NOT_IN_A_NAME} ) {NUMBER}",
    re.VERBOSE | re.IGNORECASE,
)
_COMPUTED = re.compile(
    r"[0-9]\s*[-+*/^=×÷]|[*/^=×÷]\s*[$€£¥]?[0-9]|\b(?:twice|double|triple|dozen)\b", re.I
)
# "x = 3, y = 4" gives two values.
_TWO_VALUES = re.compile(
    r"(?<![\w)])[A-Za-z]\w{0,3}\s*[=:]\s*[-+$]*[0-9][0-9.]*+(?:\s*,|;|\s&|\sand\b|(?=\s))\s*(?:and\s)?[A-Za-z]\w{0,3}\s*[=:]\s*[-+$]*\Z"
)
# "18 (out of 20)": an aside that compares something with the number before it.
_ASIDE = re.compile(
    r"(?<=[0-9])(?:[.,]?[0-9])*[%$]?(?P<aside>(?:\s[A-Za-z]+){0,3}\s?\((?:out of|of|not|instead of|rounded|since|because|as)\b[^()]*)\Z",
    re.IGNORECASE,
)
# In data such as JSON: the value of a key that does not name an answer.
_FIELD = re.compile(
    r"[\"'](?![^\"']*(?:answer|result|solution|total)[\"'])[\w -]{1,40}+[\"']\s?:\s?[\"']?[-$0-9.,]*+\Z",
    re.IGNORECASE,
)
_KEY = re.compile(r"[\"']\s?:")
_NO_RESULT = re.compile(r"[\s$)]*=[\s$]*(?:\?|_|\Z)")
_SIGNED_TWICE = re.compile(r"(?:-\s?\(|(?:\A|[\s=$(])\|)\Z")
_REASON = re.compile(r"\b(?:because|since|as)\b|\bis\s(?:odd|even|prime|too)\b", re.IGNORECASE)
_LINE_BREAKS = re.compile(r"\s*[\n\r]\s*")

# A sentence about the work is not an answer: "18. It took 3 steps." _BOUNDARY matches the end of the sentence before,
# _WORK the words up to the number, and _WORK_END the number and what follows.
_BOUNDARY = re.compile(rf"(?:[.!…]++{CLOSING_MARKS}(?=\s)|[\n\r])[\s.…]*+")
_WORK = re.compile(
    r"[\W_]*+(?:(?:it|this|that|which|i|we)\s+)?(?:(?:only|just|has|have|was|were|double)[\s-]+){0,3}"
    r"(?:took|takes|used?|using|checked|verified|tried|needed|required|done|made)\s+"
    r"(?:(?:it|this|in|only|just|about|me|us)\s+){0,3}",
    re.IGNORECASE,
)
_WORK_END = re.compile(
    r"[0-9]+(?:[\W_]*\Z|\s+(?:steps?|times|tries|attempts|checks|operations|calculations)\b)",
    re.IGNORECASE,
)
_NO_WORDS = re.compile(r"[\W_]*")
_RESULT = re.compile(
    rf"""
    (?: (?<![<>!])= | ≈ | [("$*`]
      | \b(?:therefore|thus|hence|so|equals?|equal\ to|is|are|was|were|has|have|total|approx|approximately
          |about|roughly)\b [,:]? | \b(?:is|are)\s\w{{1,20}}\b )
    [\s"$*`({{\[\\]* [+-]? {CURRENCY}? \s* [0-9][0-9.,]*+ (?:\s[A-Za-z]{{1,20}}){{0,3}} [\W_]* \Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""A sentence that ends with its result: ``therefore 18``, ``9 + 9 = 18 eggs``, ``eighteen (18)``."""


def read_last_number(text: str) -> str | None:
    """Reads the last number of prose that is not about the work.

    None if it is part of another number, as in ``12:00``, if it is not the value of the unknown in its
    equation, or if it stands alone behind a different result.
    """
    digits = last_match(_LOOSE_DIGITS, text)
    if digits is None:
        return None
    before = text[max(0, digits.end() - MAX_LINE) : digits.start()]
    after = text[digits.start() : digits.end() + MAX_DIGITS]
    field = _FIELD.search(before)
    if text.find(STRUCK, digits.end()) >= 0 or (field and _KEY.search(before, 0, field.start())):
        return None
    value = _number_of(before + after)
    boundary = last_match(_BOUNDARY, before)
    if boundary is None or not _RESULT.search(before, 0, boundary.start()):
        return value
    lead = before[boundary.end() :]
    if is_first_try(lead) or (_WORK.fullmatch(lead) and _WORK_END.match(after)):
        return _number_of(before[: boundary.start()])
    alone = _NO_WORDS.fullmatch(lead) and _NO_WORDS.fullmatch(after.lstrip("0123456789"))
    if alone and not {*"\n\r"} & {*boundary.group()}:
        return value if value == _number_of(before[: boundary.start()]) else None
    return value


def read_sentence(text: str) -> str | None:
    """Reads the only number of a sentence that announces an answer, as "She has 42 apples left" does."""
    if len(text) > MAX_LINE:
        return None
    sentence = SENTENCE_END.split(without_markup(text), maxsplit=1)[0]
    numbers = [*_LOOSE_NUMBER.finditer(sentence)]
    if len(numbers) != 1 or has_hedge(sentence) or _COMPUTED.search(sentence):
        return None
    if _REASON.search(sentence):
        return None
    words = sentence[: numbers[0].start()] + " ; " + sentence[numbers[0].end() :]
    return None if has_other_numbers(words) else _number_of(sentence)


def _number_of(text: str) -> str | None:
    """The last number of a text of bounded length."""
    window = without_markup(_LINE_BREAKS.sub(" ; ", text))
    number = last_match(_LOOSE_NUMBER, window)
    if number is None:
        return None
    before = window[: number.start()]
    aside = _ASIDE.search(before)
    if aside is not None:
        return _number_of(before[: aside.start("aside")])
    behind = window[number.end() :]
    if (
        is_part(before, behind)
        or _NO_RESULT.match(behind)
        or has_numeral(before[-1:])
        or _TWO_VALUES.search(before)
        or is_continued(window, number.end())
        or is_denied(before, behind)
        or is_one_of_several(before)
        or has_no_answer(before)
    ):
        return None
    if number["sign"] and _SIGNED_TWICE.search(before):
        return None
    left, equals, between = before.rpartition("=")
    if equals and not any(map(str.isalnum, between)) and asks_for_unknown(left):
        return None
    return signed_value(number, number["sign"])
