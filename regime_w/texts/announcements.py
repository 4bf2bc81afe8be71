r"""The words that announce an answer, and whether their clause lets them: "the answer is", not "the answer is not".

From a text of any length to matches in it; the text before a match is read up to a bounded length.
"""

import re

from regime_w.texts.denials import is_supposed
from regime_w.texts.sentences import last_match

_ADVERB = (
    r"(?-i:clearly|definitely|obviously|certainly|simply|indeed|surely|undoubtedly|therefore|thus|hence|then)"
    # Not "clearly stated in the text".
    r"\b,?[*_: ]{1,4}(?-i:(?![a-z]{2})|(?=not\b))"
)
ANSWER_IS = re.compile(
    rf"""
    (?:\b|(?<=_)) (?:answer|(?P<label>option|choice))\b [*_ ]{{0,3}} (?:is|was|would\ be|:|=) [*_: ]{{0,4}}
    (?:{_ADVERB}){{0,2}} (?:\n[ \t]{{0,8}}){{0,3}}
  | (?<![^\n]) (?: [#*_ ]{{0,8}} (?:the\ )?final[ _]answer | (?:\#{{1,6}}|\*\*|__)\ ?(?:the\ )?answer )
    [*_: ]{{0,8}} \n\s{{0,8}}               # a heading
  # A field of JSON, in an object or on a line of its own.
  | (?:(?<=\{{)|(?<=\{{[ \n])|(?<=,)|(?<=[, \n][ \n])) (?P<quote>["'])(?:final[_ ]?)?answer(?P=quote) \s{{0,4}}:\s{{0,4}}
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r"[.!?,;:\n>|—–][*_\"'`$)\]}]*|\s-\s|\b(?:so|thus|therefore|hence|then|but|means)\b",
    re.IGNORECASE,
)
_MAX_CLAUSE = 100
_MAX_FIELD = 2000
"""The most characters of an object that are looked at before its answer, and as many after."""
_SUBJECT = re.compile(
    r"""
    (?: .*\b(?:the|my|our|your|its|choose|pick|select)\b )? [\W\d_]*+
    (?: (?:final|correct|right|best|better|true|only|actual|proper|valid|accurate|appropriate|suitable|single|most
        |likely|plausible|probable|remaining|chosen|selected|short|multiple|choice|answer) [\W_]+ ){0,4}
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
"""What may stand before "answer" in a clause that states it; "the incorrect option" and "one choice" do not match."""
_FIELD_VALUE = re.compile(
    r"(?:\"(?P<double>(?:[^\"\\\n]|\\.)*)\"|'(?P<single>(?:[^'\\\n]|\\.)*)'|(?P<number>-?[0-9]+(?:\.[0-9]+)?))"
    r"\s{0,8}(?:,\s{0,40}(?=[\"'][^\"'\n]{1,40}[\"']\s{0,4}:)|\}|\Z)"
)
# An object that judges its own answer gives none.
_JUDGED = re.compile(
    r"[\"'][a-z_ ]{0,20}(?:correct|wrong|right|valid)[a-z_ ]{0,20}[\"']\s*:", re.IGNORECASE
)
_BEFORE_OBJECT = re.compile(r"(?:\A|\n)[ \t]{0,8}(?:```(?:json)?\s{0,4})?\Z")
# A letter, a name, a number or a term, but not a predicate: "not clear but", "not only A but also".
_THING = r"(?:[(\[]?[A-Za-z][)\]]?(?![\w'’])|[A-Z][\w'-]*(?:\s[A-Z][\w'-]*){0,3}|[-$\\0-9(A-Za-z](?=[^\s,;!?]*[0-9+*/^=$\\])[^\s,;!?\n]{0,60})"
_NOT_BUT = re.compile(
    rf"not\s+(?:option\s|choice\s)?{_THING},?\s+but\s+(?:rather\s+|instead\s+)?(?=(?:option\s|choice\s)?{_THING}[\s.*)\]]*\Z)"
)


def clause_start(text: str, end: int) -> int:
    """Where the clause that contains ``end`` begins."""
    start = max(0, end - _MAX_CLAUSE)
    before = last_match(_CLAUSE_END, text[start:end])
    return start if before is None else start + before.end()


def is_stated(clause: str) -> bool:
    """Whether what stands before "answer is" in its clause lets it state one."""
    return _SUBJECT.fullmatch(clause) is not None and not is_supposed(clause)


def field_value(text: str, start: int) -> tuple[str, str]:
    """What a field of JSON holds, without its quotation marks, and what follows its object.

    Empty if it is neither a string nor a number, or if its object stands within a line of prose or judges the answer.

    Args:
        text: Contains the field.
        start: Where the field's value begins.
    """
    window = text[start : start + _MAX_FIELD]
    found = _FIELD_VALUE.match(window)
    opening = text.rfind("{", max(0, start - _MAX_FIELD), start)
    closing = window.find("}", found.end() - 1) if found else -1
    end = len(window) if closing < 0 else closing + 1
    whole = text[max(0, opening) : start + end]
    before = text[max(0, opening - _MAX_CLAUSE) : max(0, opening)]
    if found is None or opening < 0 or _JUDGED.search(whole) or not _BEFORE_OBJECT.search(before):
        return "", ""
    value = found["double"] or found["single"] or found["number"] or ""
    return value.replace("\\\\", "\\").strip(), window[end:].lstrip(" `\n")


def without_contrast(sentence: str) -> str:
    """A sentence without the thing that it denies before it gives another: "not A but B" becomes "B"."""
    contrast = _NOT_BUT.match(sentence)
    return sentence if contrast is None else sentence[contrast.end() :]
