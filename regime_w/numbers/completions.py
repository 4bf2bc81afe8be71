"""What a completion says: its text without its thoughts, what is struck out, and all that follows its end of turn.

Answers of every type are read from this text.
"""

import re
from collections.abc import Callable

THOUGHT_STARTS, THOUGHT_ENDS = "<think>", "</think>"
_OPENED_THOUGHT = re.compile(rf"{THOUGHT_STARTS}\s*\Z")

_STOP_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|end_of_text|eot_id|eom_id|end|return)\|>|<(?:eos|/s|end_of_turn)>"
    r"|<｜end▁of▁sentence｜>"
)
"""Ends a turn, if a tokenizer shows the token as text."""

STRUCK = "⌧"
"""Stands for a number that is struck out and not followed by another."""
_STRUCK_OUT = re.compile(
    r"~~(?=[^\s~])[^~\n]{1,400}~~"
    r"|(?i:<(s|del|strike)>[^<\n]{0,400}</\1>)"
    r"|\\(?:sout|[bx]?cancel)\s?\{(?:[^{}]|\{[^{}]{0,60}\}){0,100}\}"
)
_NUMBER_FOLLOWS = re.compile(r"[\s$*_`]*[-+]?\\?[$€£¥]?[0-9]")


def completion_of(text: str, in_place_of: str | Callable[[re.Match[str]], str] = "") -> str:
    """What a completion says.

    Args:
        text: Completion without its prompt.
        in_place_of: What stands in place of what is struck out, as `re.sub` takes it.
    """
    # First, since </s> ends a turn only where it does not end what is struck out.
    text = _STRUCK_OUT.sub(in_place_of, text)
    end = _STOP_TOKEN.search(text)
    return _without_thoughts(text if end is None else text[: end.start()])


def struck_number(found: re.Match[str]) -> str:
    """Stands in place of what is struck out, where a number is read: ``~~20~~`` alone gives none, ``~~20~~ 18`` is 18."""
    is_number = any(map(str.isdigit, found[0]))
    return STRUCK if is_number and not _NUMBER_FOLLOWS.match(found.string, found.end()) else " "


def opened_thought(prompt: str) -> str:
    """The end of a prompt that begins the answer's thought: ``<think>`` and white space, or nothing."""
    found = _OPENED_THOUGHT.search(prompt)
    return "" if found is None else found[0]


def _without_thoughts(text: str) -> str:
    """What a reasoning model says outside its thoughts; empty if it is cut off before they end."""
    return text.rpartition(THOUGHT_ENDS)[2].partition(THOUGHT_STARTS)[0]
