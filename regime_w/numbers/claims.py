r"""What the words behind an "answer is" claim: one number, something that is not a number, or nothing yet.

From a sentence, or the value of a JSON key, to the text of a number. Something else, such as ``x ≥ 18``, "half of 18"
or "unknown", is a claim as well, and no number is looked for elsewhere.
"""

import re

from regime_w.numbers.prose import read_last_number
from regime_w.numbers.statements import (
    begins_with_number,
    is_in_words_or_doubt,
    read_line,
)
from regime_w.texts.completions import STRUCK
from regime_w.texts.denials import has_hedge, is_replacement
from regime_w.texts.fields import FIELD_VALUE
from regime_w.texts.markup import without_markup

_EXPLANATION = re.compile(r"[,;(](?=\s*[A-Za-z])| (?:because|since|as|which|so) ")
_SCALED = re.compile(
    r"\W*(?:in )?(?:thousands?|millions?|billions?|squared|cubed|times|mod(?:ulo)?|base|hex|binary|up to a sign)\b",
    re.IGNORECASE,
)
"""Begins an addition that makes another number of the one before it: "18 (in thousands)"."""
_SECOND_VALUE = re.compile(r"[,;(]\s*(?:and\s+)?[A-Za-z]\w{0,15}\s*(?:=[^=]*[0-9]|:\s*\$?[0-9])")
_LEAD = re.compile(
    r"\A\s*+(?:(?:that|exactly|simply|just|only|therefore|thus|then|now|indeed) ){1,2}",
    re.IGNORECASE,
)
_VARIABLES = re.compile(r"(?:[\s$(\[{]*+[A-Za-z](?:_\{\w{1,8}\}|\w){0,15}\s?=)*")
"""``x =`` or ``x = y =`` before the number of a sentence without markup."""
_MATHEMATICS = re.compile(
    r"[\s*_\"]*+(?:\$[^$0-9]{0,60}[0-9][^$]*\$|\\[(\[][^0-9]{0,60}[0-9]|\\[a-z]{1,20}\s?[{\[]|√)"
)
"""Matches a sentence that begins with a value rather than a variable."""
_RESOLVED = re.compile(
    r"=|:|,\s*or\b|\b(?:is|are|was|were|equals?|gives?|makes?|so|i\.e|namely|comes?|leaves|totals?)\b",
    re.IGNORECASE,
)
_COMPUTED = re.compile(
    r"""
    \s*+ (?: (?:(?:an?|one|two|three|four|five)\s)? (?:half|third|quarter|fourth|fifth|sixth|eighth|tenth)s?\s of\b
      | twice | thrice | double | triple | (?:the\s)? (?:square|cube)\s root\s of
      | the\s (?:sum|difference|product|quotient|ratio|average|mean)\s (?:of|between) ) \s .*? [0-9]
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Matches what gives a number only once it is computed: "half of 18"."""
_DAY = (
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)day|january|february|march|april|may|june|july|august|september"
    r"|october|november|december"
)
_NO_NUMBER = re.compile(
    rf"""
    [\s$(]*+
    (?: (?:[A-Za-z]\w{{0,3}}\s?)?
        (?: [<>≤≥≠±≈∓∞∈?{STRUCK}] | [+-]/[+-] | \+- | != | \\(?:[lg]eq?(?:slant)?|[lg]t|neq?|approx|sim|pm|mp|infty|in)\b )
      | -?\s? (?: \\?(?:pi|theta|alpha|beta|phi)\b | [A-Za-zα-ω] (?![A-Za-z]) ) (?![^=]*=)
        (?: \s? [+*/^×÷·] | \s?-\s?(?:[0-9]|[A-Za-z]\b) | \( )
      | -\s?[A-Za-z](?=[\s$.,;]*\Z) | (?:\\pi|π)
      | \\?(?:log|ln|sin|cos|tan|sqrt|exp)\b [\s_(]
      | (?: yes | no | true | false | unknown | undefined | undetermined | indeterminate | infinit[ey] | impossible | none
          | nothing | null | nil | nan | n/a | dne )
        (?= [\s$]*(?:[.,;!)"]|\Z) | \s (?:because|since|as)\b )
      | (?:on\s)? (?:{_DAY}) (?:,?\s(?:{_DAY}))? (?:,?\s(?:the\s)?[0-9]{{1,2}}(?:st|nd|rd|th)?)? \s* \Z
      | (?:on\s)? (?:(?:{_DAY}),?\s)? (?:the\s)? [0-9]{{1,2}}(?:st|nd|rd|th)?\s (?:of\s)? (?:{_DAY}) \b
      | (?:on\s)? the\s[0-9]{{1,2}}(?:st|nd|rd|th) \s* \Z
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)


def claimed(line: str) -> str | None:
    """The part of a sentence that gives its number.

    Returns:
        That part; empty if what is claimed is not one number, None if nothing is claimed yet: "easy to see".
    """
    sentence = _LEAD.sub("", without_markup(line), count=1)
    if is_in_words_or_doubt(sentence):
        return ""
    value = _VARIABLES.sub("", sentence, count=1)
    if not begins_with_number(value):
        computed = _COMPUTED.match(value)
        if "=" in sentence and (computed or _MATHEMATICS.match(line)) and read_line(sentence):
            return sentence
        if computed:
            return None if _RESOLVED.search(value, computed.end()) else ""
        return "" if _MATHEMATICS.match(line) or _NO_NUMBER.match(value) else None
    if has_hedge(sentence):
        return ""
    # An explanation is removed: "18, since 9 * 2 = 18" and "18 because …" become "18".
    explanation = _EXPLANATION.search(sentence)
    if explanation is None:
        return sentence
    answer, rest = sentence[: explanation.start()], sentence[explanation.start() :]
    if _SCALED.match(rest):
        return ""
    # A conclusion, a correction or a second value is not an explanation: "17.8, so she needs 18 buses", "x = 3, y = 5".
    is_other = is_replacement(rest) or _SECOND_VALUE.match(rest)
    return answer if not is_other or _is_same(read_last_number(rest), answer, rest) else ""


def claimed_in_field(window: str) -> str:
    """What the value of a key such as ``"answer":`` gives; empty if it is not one number.

    Args:
        window: The text that follows the key.
    """
    value = FIELD_VALUE.match(window.lstrip())
    return "" if value is None else claimed(value[value.lastindex or 0].strip()) or ""


def _is_same(other: str | None, answer: str, rest: str) -> bool:
    """Whether an addition gives no number other than the answer: "0.5, i.e. 50%"."""
    value = read_line(answer)
    if other is None or value is None:
        return not any(map(str.isdigit, rest))
    return other == value or ("%" in rest and read_line(f"{other}/100") == value)
