r"""The words that announce an answer, and whether their clause lets them: "the answer is", not "the answer is not".

From a text of any length to matches in it; the text before a match is read up to a bounded length.
"""

import re

from regime_w.texts.blocks import first_block
from regime_w.texts.denials import is_supposed
from regime_w.texts.sentences import last_match

_ADVERB = (
    r"(?-i:clearly|definitely|obviously|certainly|simply|indeed|surely|undoubtedly|therefore|thus|hence|then)"
    # Not "clearly stated in the text".
    r"\b,?[*_: ]{1,4}(?-i:(?![a-z]{2})|(?=not\b))"
)


def _announcing(subject: str, heading: str) -> re.Pattern[str]:
    """Matches what announces an answer: "SUBJECT is", a line that is only a heading, or the key of a field of JSON."""
    return re.compile(
        rf"""
        (?:\b|(?<=_)) (?:{subject})\b [*_ ]{{0,3}} (?:is|was|equals|would\ be|:|=) [*_: ]{{0,4}}
        (?:{_ADVERB}){{0,2}} (?:\n[ \t]{{0,8}}){{0,3}}
      | (?<![^\n]) (?:{heading}) [*_: ]{{0,8}} \n\s{{0,8}}
      | (?P<field>["'])(?:final[_ ]?)?answer(?P=field) \s{{0,4}}:\s{{0,4}}
        """,
        re.VERBOSE | re.IGNORECASE,
    )


_FINAL_ANSWER = r"[#*_ ]{0,8}(?:the\ )?final[ _]answer"
ANSWER_IS = _announcing(
    r"answer|(?P<label>option|choice)",
    rf"{_FINAL_ANSWER} | (?:\#{{1,6}}|\*\*|__)\ ?(?:the\ )?answer",
)
"""Announces an answer; ``label`` is set if it may be a list's label, ``field`` if it is the key of a field of JSON."""
NUMBER_IS = _announcing("answer", _FINAL_ANSWER)
"""As `ANSWER_IS`, for numbers: neither "Option:" nor a heading "Answer" without a colon announces one."""
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
"""What may stand before "answer" in a clause that states it; "the incorrect option" and "one choice" do not match."""
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


def first_line(window: str, *, is_below: bool) -> str:
    """The rest of the line behind an "answer is", or the block below it; empty if that is a list."""
    if not is_below:
        return window.partition("\n")[0]
    lines = [line for line in window.splitlines() if line.strip()]
    return first_block(lines)[0] if lines else ""


def without_contrast(sentence: str) -> str:
    """A sentence without the thing that it denies before it gives another: "not A but B" becomes "B"."""
    contrast = _NOT_BUT.match(sentence)
    return sentence if contrast is None else sentence[contrast.end() :]
