"""What a completion says: its text without its thoughts, what is struck out, and all that follows its end of turn.

Answers of every type are read from this text.
"""

import re
from collections.abc import Callable

THOUGHT_STARTS, THOUGHT_ENDS = "<think>", "</think>"
_OPENED_THOUGHT = re.compile(rf"{THOUGHT_STARTS}\s*\Z")

_LEADING_BOS = re.compile(
    r"(?:\s*(?:<s>|<bos>|<\|(?:begin_of_text|startoftext)\|>|<｜begin▁of▁sentence｜>))+"
)
_STOP_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|end_of_text|eot_id|eom_id|end|return)\|>|<(?:eos|/s|end_of_turn)>"
    r"|<｜end▁of▁sentence｜>"
)
"""Ends a turn, if a tokenizer shows the token as text."""
_TURN_STARTS = (
    r"<\|(?:im_start|start|start_header_id|start_of_role|system|user|assistant)\|>|<start_of_turn>"
    r"|<｜(?:User|Assistant)｜>|\[INST\]|(?<=>)\s*(?i:system|user|human|assistant)[ \t]*[:\n]"
)
_MARKS = re.compile(
    r"(?P<struck>(?i:<s>[^<\n]{0,400}</s>))"
    rf"|(?P<stop>{_STOP_TOKEN.pattern})"
    rf"|(?P<thought>{THOUGHT_STARTS})|(?P<end_of_thought>{THOUGHT_ENDS})"
    rf"|(?P<turn>{_TURN_STARTS})"
)
"""What tells whether a stop token ends the turn; the "</s>" of "<s>20</s>" does not."""

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
    bos = _LEADING_BOS.match(text)
    text = text if bos is None else text[bos.end() :]
    return _STRUCK_OUT.sub(in_place_of, _without_thoughts(text[: _end_of_turn(text)]))


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


def _end_of_turn(text: str) -> int:
    """Where the first stop token outside of a thought begins; the text's length if there is none.

    A stop token is in a thought if ``</think>`` is the next tag, and the last one is ``<think>``; or if there is none
    before, as in a thought that the prompt opened, and no turn begins between.
    """
    if _STOP_TOKEN.search(text) is None:
        return len(text)
    last_tag, first_stop = "", len(text)
    for mark in _MARKS.finditer(text):
        kind = mark.lastgroup or ""
        if kind == "stop":
            first_stop = min(first_stop, mark.start())
        is_outside = (
            last_tag == "end_of_thought" or kind == "thought" or (kind == "turn" and not last_tag)
        )
        if is_outside and first_stop < len(text):
            break
        if kind == "end_of_thought":
            first_stop = len(text)
        if kind in ("thought", "end_of_thought"):
            last_tag = kind
    return first_stop
