"""Reads the field of a JSON object that gives its answer: ``{"reasoning": "…", "answer": "B"}``.

From a text of any length and a place in it to what stands near it.
"""

import re

_MAX_BEFORE = 100
"""The most characters before an object that are looked at."""
_MAX_FIELD = 2000
"""The most characters of an object that are looked at before its answer, and as many after."""
_BEFORE_FIELD = re.compile(r"(?:\{[ \n]?|,|[, \n][ \n])\Z")
FIELD_VALUE = re.compile(
    r"\"((?:[^\"\\\n]|\\.)*)\"|'((?:[^'\\\n]|\\.)*)'|(?P<bare>[^,\"'{}\[\]\n]*+)(?=\s*(?:[,}\n]|\Z))"
)
"""Matches the value of a field: a string, a number, or words without quotation marks. Its last group is what they hold."""
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?\s{0,8}")
_END = re.compile(r"\s{0,8}(?:,\s{0,40}(?=[\"'][^\"'\n]{1,40}[\"']\s{0,4}:)|\}|\Z)")
# An object that judges its own answer gives none.
_JUDGED = re.compile(
    r"[\"'][a-z_ ]{0,20}(?:correct|wrong|right|valid)[a-z_ ]{0,20}[\"']\s*:", re.IGNORECASE
)
_BEFORE_OBJECT = re.compile(r"(?:\A|\n)[ \t]{0,8}(?:```(?:json)?\s{0,4})?\Z")


def is_in_object(text: str, field: int) -> bool:
    """Whether a field of JSON that begins at ``field`` stands in an object or on a line of its own."""
    return _BEFORE_FIELD.search(text, max(0, field - 2), field) is not None


def field_value(text: str, start: int) -> tuple[str, str]:
    """What a field of JSON holds, without its quotation marks, and what follows its object.

    Empty if it is neither a string nor a number, or if its object stands within a line of prose or judges the answer.

    Args:
        text: Contains the field.
        start: Where the field's value begins.
    """
    window = text[start : start + _MAX_FIELD]
    value = FIELD_VALUE.match(window)
    if value is not None and value["bare"] is not None and not _NUMBER.fullmatch(value["bare"]):
        value = None
    found = value and _END.match(window, value.end())
    opening = text.rfind("{", max(0, start - _MAX_FIELD), start)
    closing = window.find("}", found.end() - 1) if found else -1
    end = len(window) if closing < 0 else closing + 1
    whole = text[max(0, opening) : start + end]
    before = text[max(0, opening - _MAX_BEFORE) : max(0, opening)]
    if (
        value is None
        or found is None
        or opening < 0
        or _JUDGED.search(whole)
        or not _BEFORE_OBJECT.search(before)
    ):
        return "", ""
    held = value[value.lastindex or 0]
    return held.replace("\\\\", "\\").strip(), window[end:].lstrip(" `\n")
