r"""Finds what holds an answer in a text of its own: ``\boxed{18}``, ``\fbox{18}``, ``<answer>18</answer>``.

For answers of every type. Only the boxes themselves are searched for in the whole text.
"""

import re
from collections.abc import Iterator

from regime_w.texts.denials import has_correction

BOX = re.compile(r"\\(?:boxed|fbox)\s*+\{")
"""Matches the beginning of a box, in which a solution puts its answer."""

_BOX_OR_ELEMENT = re.compile(
    rf"{BOX.pattern}|<answer>(?=(?P<element>[^<]*+)</answer>)", re.IGNORECASE
)
_OR = re.compile(r"\A[^\w∨]*(?:l?or\b|∨)|(?:\bl?or\b|∨)\W*\Z")
"""Matches an "or" that joins two boxes: what is between them begins or ends with it. In prose it stands elsewhere."""


def boxes_and_elements(text: str, max_chars: int) -> Iterator[re.Match[str]]:
    """The beginnings of boxes, and of elements that hold at most ``max_chars``, in the order of the text."""
    for found in _BOX_OR_ELEMENT.finditer(text):
        if found["element"] is None or len(found["element"]) <= max_chars:
            yield found


def is_element(box: re.Match[str]) -> bool:
    """Whether a match of `boxes_and_elements` is an ``<answer>``."""
    return box["element"] is not None


def content(text: str, box: re.Match[str], max_chars: int) -> tuple[str, int] | None:
    """What a box or an element holds, and where it ends; None if a box is not closed within ``max_chars``.

    Args:
        text: Holds the box.
        box: A match of `BOX` or of `boxes_and_elements`.
        max_chars: The most characters that the box may hold.
    """
    if not box.group().endswith("{"):
        return box["element"], box.end("element") + len("</answer>")
    start, depth = box.end(), 1
    for position, char in enumerate(text[start : start + max_chars + 1], start):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[start:position], position + 1
    return None


def are_alternatives(text: str, end: int, start: int) -> bool:
    """Whether a second box may only be another answer beside the first, as on one line or behind an "or".

    Args:
        text: Holds both boxes.
        end: Where the first ends.
        start: Where the second begins; a box within the first is no alternative to it.
    """
    between = text[end:start]
    if end > start or has_correction(between):
        return False
    return "\n" not in between or _OR.search(between) is not None
