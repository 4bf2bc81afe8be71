r"""Where a completion states an answer that may be words; `regime_w.numbers.answers` finds one that is a number.

The first rule that applies gives the position: after the last ``####`` (see `regime_w.texts.marker`), in
the last ``\boxed{}`` or ``<answer></answer>``, after the last "answer is" or under the last heading "Final
Answer". A sentence that denies or supposes an answer does not state it: "the answer is not A", "the incorrect
option is A", "if the answer was A".
"""

import re
from collections import deque
from dataclasses import dataclass

from regime_w.texts.announcements import (
    ANSWER_IS,
    clause_start,
    first_line,
    is_stated,
    without_contrast,
)
from regime_w.texts.blocks import WORK_HEADING
from regime_w.texts.boxes import are_alternatives, boxes_and_elements, content
from regime_w.texts.denials import MAX_BEHIND, denial, has_hedge, is_denied, says_instead
from regime_w.texts.fields import field_value, is_in_object
from regime_w.texts.marker import MARKER, after_marker
from regime_w.texts.markup import without_markup
from regime_w.texts.sentences import first_sentence, last_match, without_outer_marks

MAX_ANSWER_CHARS = 400
"""A longer statement is prose, not an answer."""

_MAX_LOOKED_AT = 100
"""The most boxes, and the most occurrences of "answer is", that are looked at, from the end of a text."""

_VERB = re.compile(r"(?:is|was)", re.IGNORECASE)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class StatedAnswer:
    """An answer that a text states."""

    line: str
    """Empty if an answer is announced but nothing follows, or more than an answer."""
    behind: str = ""
    """The beginning of what follows."""
    is_marked: bool = False
    """Whether it stands behind a ``####``; then nothing that follows takes it back."""
    is_formatted: bool = False
    """Whether it stands behind a ``####``, in a box or in an element."""
    is_label: bool = False
    """Whether only "Option:" or "Choice:" announces it, which may just name what is being discussed."""


def stated_answer(text: str, addition: re.Pattern[str] | None = None) -> StatedAnswer | None:
    """The stated answer; None if none is stated.

    Args:
        text: A completion or a solution.
        addition: Matches where an addition to a sentence begins; it is left out unless it expresses doubt.
    """
    if MARKER in text:
        return _marked_answer(text, addition)
    return _boxed_or_said(text, addition)


def only_line(text: str) -> str | None:
    """The text without white space around it, if it is one line no longer than an answer; else None."""
    text = text.strip()
    return None if not text or len(text) > MAX_ANSWER_CHARS or len(text.splitlines()) > 1 else text


def last_lines(text: str) -> tuple[str | None, str | None]:
    """The last line that is not blank and the one before it, each None if it is too long for an answer."""
    lines = text.rstrip()[-2 * MAX_ANSWER_CHARS - 2 :].splitlines()
    before, last = ["", "", *(line for line in lines if line.strip())][-2:]
    return only_line(last), only_line(before)


def states_in_form(text: str) -> bool:
    """Whether the answer of `stated_answer` stands behind a ``####``, in a box or in an element."""
    stated = stated_answer(text)
    return stated is not None and stated.is_formatted


def states_gold(text: str) -> bool:
    """Whether a gold answer has a place of its own in a solution: a ``####``, a box or an element."""
    return MARKER in text or any(boxes_and_elements(text, MAX_ANSWER_CHARS))


def _marked_answer(text: str, addition: re.Pattern[str] | None) -> StatedAnswer:
    """What stands after the last ``####``; if that is a heading, what is stated under it."""
    marked = after_marker(text, WORK_HEADING)
    if marked.below and not marked.line:
        return _boxed_or_said("\n".join([marked.heading, *marked.below]), addition) or StatedAnswer(
            ""
        )
    line = (marked.line or marked.heading).strip()
    if not line or len(line) > MAX_ANSWER_CHARS:
        return StatedAnswer("")
    start = text.rindex(MARKER)
    inner = _boxed_or_said(line, addition)
    stated = without_outer_marks(line, text, start) if inner is None else inner.line
    behind = text[start:].partition(line)[2][:MAX_BEHIND]
    return StatedAnswer(stated, behind, is_marked=True, is_formatted=True)


def _boxed_or_said(text: str, addition: re.Pattern[str] | None) -> StatedAnswer | None:
    return _last_boxed(text) or _last_said(text, addition)


def _last_boxed(text: str) -> StatedAnswer | None:
    """What the last box that is not denied holds; empty if all are denied, or if it may only be an alternative to another."""
    boxes = deque(boxes_and_elements(text, MAX_ANSWER_CHARS), maxlen=_MAX_LOOKED_AT)
    claimed = (box for box in reversed(boxes) if _is_claimed(text, box))
    last, other = next(claimed, None), next(claimed, None)
    if last is None:
        return StatedAnswer("") if boxes else None
    if other is not None and _are_rivals(text, other, last):
        return StatedAnswer("")
    inner, end = _content(text, last)
    return StatedAnswer(inner, text[end : end + MAX_BEHIND], is_formatted=True)


def _is_claimed(text: str, box: re.Match[str]) -> bool:
    """Whether what stands around a box lets it state an answer."""
    clause = text[clause_start(text, box.start()) : box.start()]
    said = last_match(ANSWER_IS, clause)
    _, end = _content(text, box)
    behind = text[end : end + MAX_BEHIND].lstrip(" $")
    is_wrong = _VERB.match(behind) and is_denied("", behind)
    if is_wrong or is_denied(clause, ""):
        return False
    return not said or is_stated(clause[: said.start()])


def _content(text: str, box: re.Match[str]) -> tuple[str, int]:
    """What a box holds, and where it ends; empty if it is not closed nearby."""
    inner, end = content(text, box, MAX_ANSWER_CHARS) or ("", box.end())
    return inner.strip(), end


def _are_rivals(text: str, first: re.Match[str], second: re.Match[str]) -> bool:
    """Whether two boxes hold different answers, and the second may only be an alternative to the first."""
    held = content(text, first, MAX_ANSWER_CHARS)
    if held is None or not are_alternatives(text, held[1], second.start()):
        return False
    inner = (held[0], _content(text, second)[0])
    return len({without_markup(each.strip()).strip(" ()$.").casefold() for each in inner}) > 1


def _last_said(text: str, addition: re.Pattern[str] | None) -> StatedAnswer | None:
    """The sentence after the last "answer is" that states one; empty if a later one denies it, or if all deny."""
    denials: list[str] = []
    end = len(text)
    said = (
        found
        for found in ANSWER_IS.finditer(text)
        if not found["field"] or is_in_object(text, found.start())
    )
    for found in reversed(deque(said, maxlen=_MAX_LOOKED_AT)):
        start, clause = found.end(), clause_start(text, found.start())
        before = text[clause : found.start()]
        if is_stated(before):
            # "The answer is B. The incorrect option is A."
            window = text[start : min(end, start + MAX_ANSWER_CHARS)]
            if found["field"]:
                value, behind = field_value(text, start)
                return StatedAnswer(value, behind[:MAX_BEHIND])
            line = first_line(window, is_below="\n" in found.group())
            sentence, rest = first_sentence(line)
            sentence = without_contrast(without_outer_marks(sentence, text, start))
            if not denial(sentence):
                if any(_is_contradicted(sentence, denied) for denied in denials):
                    return StatedAnswer("")
                behind = text[start : start + MAX_ANSWER_CHARS + MAX_BEHIND].partition(
                    line or "\n"
                )[2]
                return StatedAnswer(
                    _without_addition(sentence, addition),
                    (rest + behind)[:MAX_BEHIND],
                    is_label=found["label"] is not None and not _WORD.search(before),
                )
            denials.append(sentence)
        end = clause
    return StatedAnswer("") if denials else None


def _without_addition(sentence: str, addition: re.Pattern[str] | None) -> str:
    added = addition and addition.search(sentence)
    return (
        sentence[: added.start()]
        if added and not has_hedge(sentence[added.start() :])
        else sentence
    )


def _is_contradicted(said: str, denied: str) -> bool:
    """Whether a denial concerns what was said, or gives something else instead."""
    words = [set(map(str.casefold, _WORD.findall(each))) for each in (said, denied)]
    return not words[0].isdisjoint(words[1]) or says_instead(denied)
