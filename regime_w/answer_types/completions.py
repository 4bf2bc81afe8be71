"""A completion's text without its thoughts, struck-out parts, and everything after its end of turn."""

import re

from regime_w.numbers.markup import without_thoughts

_STRUCK = re.compile(
    r"~~(?=[^\s~])[^~\n]{1,400}~~|<(s|del|strike)>[^<\n]{0,400}</\1>", re.IGNORECASE
)
_STOP_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|end_of_text|eot_id|eom_id|end|return)\|>|<(?:eos|/s|end_of_turn)>"
    r"|<｜end▁of▁sentence｜>"
)
"""Ends a turn, if a tokenizer shows the token as text."""


def completion_of(text: str) -> str:
    """What a completion says, for answers that are not numbers.

    Args:
        text: Completion without its prompt.
    """
    text = _STRUCK.sub("", without_thoughts(text))
    end = _STOP_TOKEN.search(text)
    return text if end is None else text[: end.start()]
