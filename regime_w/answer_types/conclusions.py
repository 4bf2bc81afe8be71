"""Reads a choice from a last line that concludes with it, and from a line that denies another choice.

From a line of bounded length to the part of it that gives the choice.
"""

import re

_LEAD_IN = re.compile(
    r"(?:(?:so|thus|therefore|hence|finally|clearly|overall|in\s(?:conclusion|summary|short))\b[,:]?\s+){0,2}"
    r"(?:(?:I|we)(?:['’]d|\swould|\swill|['’]ll)?\s(?:choose|pick|select|go\swith)\s)?",
    re.IGNORECASE,
)
"""Matches the beginning of a last line that gives only a choice: "Therefore, B is the correct answer."."""
_CONCLUDED = re.compile(
    r"[*_]*(?:(?:the\s)?(?:answer|option|choice)\s[A-Z]\b|[(\[][A-Za-z][)\]]|(?:(?:the\s)?(?:option|choice)\s)?[A-Z][*_]*\s.*\b(?:answer|option|choice)\b|[B-HJ-Z][*_]*[.!])"
)
_NOT_ANOTHER = re.compile(
    r",?\s+(?:and\s|but\s)?(?:not|rather\sthan|instead\sof)\s(?:(?:option|choice)\s)?"
    r"[(\[]?(?P<other>[A-Z])[)\]]?[\s.]*\Z"
)


def conclusion_of(line: str) -> tuple[str, bool]:
    """A line without "Therefore," or "So I choose" at its beginning, and whether what is left can be a choice.

    If nothing was removed, it always can. "So A" may begin a sentence, and "Hence x is true" is about a variable.
    """
    conclusion = _LEAD_IN.sub("", line, count=1)
    return conclusion, conclusion == line or _CONCLUDED.match(conclusion) is not None


def without_another(line: str) -> str:
    """A line without another letter that it denies at its end: "B and not C" becomes "B"."""
    denied = _NOT_ANOTHER.search(line)
    return line if denied is None else line[: denied.start()]
