"""Makes texts from outside safe to show in a terminal: their control characters are replaced by codes."""

import re

_SHOWN_CHARS = 200
# C0, DEL and C1 begin terminal escapes; the others break the line or change the direction of the text.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def safe_text(text: str) -> str:
    """The text with every control character written as its code, except tabs and line ends."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n"))


def safe_line(text: str) -> str:
    """The text as `safe_text` returns it, in one line."""
    return " ".join(safe_text(text).split())


def shortened(text: str) -> str:
    """The text, cut if it is too long for a message."""
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
