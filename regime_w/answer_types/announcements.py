r"""The words that announce an answer, and whether they do in their clause: "the answer is", not "the answer is not".

From a text of any length to matches in it; every look behind is of bounded length.
"""

import re

from regime_w.numbers.denials import is_supposed
from regime_w.numbers.statements import last_match

_ADVERB = (
    r"(?-i:clearly|definitely|obviously|certainly|simply|indeed|surely|undoubtedly|therefore|thus|hence|then)"
    r"\b,?[*_: ]{1,4}"
)
ANSWER_IS = re.compile(
    rf"""
    (?:\b|(?<=_)) (?:answer|(?P<label>option|choice))\b [*_ ]{{0,3}} (?:is|was|would\ be|:|=) [*_: ]{{0,4}}
    (?:{_ADVERB}){{0,2}} (?:\n[ \t]{{0,8}}){{0,3}}
  | (?<![^\n]) (?: [#*_ ]{{0,8}} (?:the\ )?final[ _]answer | (?:\#{{1,6}}|\*\*|__)\ ?(?:the\ )?answer )
    [*_: ]{{0,8}} \n\s{{0,8}}               # a heading
  | (?P<quote>["'])(?:final[_ ]?)?answer(?P=quote) \s{{0,4}}:\s{{0,4}}    # a field of JSON
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r"[.!?,;:\n>|—–][*_\"'`$)\]}]*|\s-\s|\b(?:so|thus|therefore|hence|then|but|means)\b",
    re.IGNORECASE,
)
_MAX_CLAUSE = 100
_SUBJECT = re.compile(
    r"""
    (?: .*\b(?:the|my|our|your|its|choose|pick|select)\b )? [\W\d_]*+
    (?: (?:final|correct|right|best|better|true|only|actual|proper|valid|accurate|appropriate|suitable|single|most
        |likely|plausible|probable|remaining|chosen|selected|short|multiple|choice|answer) [\W_]+ ){0,4}
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
"""What stands before "answer" in a clause that states it: "the incorrect option" or "one choice" is another."""
_FIELD_VALUE = re.compile(r"\"((?:[^\"\\\n]|\\.)*)\"|'((?:[^'\\\n]|\\.)*)'|([^\"'\s,}][^,}\n]*)")
# "not only A but also B" gives both.
_NOT_BUT = re.compile(
    r"not\s+(?!only\b|just\b|merely\b|simply\b)[^,;.!?\n]{1,80},?\s+but\s+(?:rather\s+|instead\s+)?"
    r"(?!(?:also|it|that|this|we|i|the\s+answer)\b)(?=\S)",
    re.IGNORECASE,
)


def clause_start(text: str, end: int) -> int:
    """Where the clause begins that goes on at ``end``."""
    start = max(0, end - _MAX_CLAUSE)
    before = last_match(_CLAUSE_END, text[start:end])
    return start if before is None else start + before.end()


def is_stated(clause: str) -> bool:
    """Whether what stands before "answer is" in its clause lets it state one."""
    return _SUBJECT.fullmatch(clause) is not None and not is_supposed(clause)


def field_value(line: str) -> str:
    """What a field of JSON holds, without its quotation marks; empty where it has no such value."""
    found = _FIELD_VALUE.match(line)
    return "" if found is None else found[found.lastindex or 0].replace("\\\\", "\\").strip()


def without_contrast(sentence: str) -> str:
    """A sentence without what it denies before it gives another thing: "not A but B" is "B"."""
    contrast = _NOT_BUT.match(sentence)
    return sentence if contrast is None else sentence[contrast.end() :]
