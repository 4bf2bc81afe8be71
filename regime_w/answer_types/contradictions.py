"""Whether what is said beside a choice rejects it, takes it back, or gives another one.

From a text of bounded length without markup, a letter and the names of all choices to a yes or no.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from regime_w.answer_types.text import normalised
from regime_w.texts.denials import has_hedge, is_denied, is_withdrawal

_REJECTED = (
    r"(?:(?:eliminat|exclud|reject|discard|dismiss|refut|contradict)ed\b|disprove[dn]\b|(?:ruled|crossed|struck)\sout\b"
    r"|[✗✘✕❌])"
)
_IS_REJECTED = re.compile(
    rf"(?:(?:this|that|it|which)\s+)?(?:(?:is|was|can|could|has|have|must|be|been|clearly|easily|also)\s+){{0,4}}{_REJECTED}",
    re.IGNORECASE,
)
_FALSE = r"(?:no|nope|false|untrue|impossible|invalid|unlikely|out)\b"
_IS_FALSE = re.compile(
    rf"{_FALSE}|(?:(?!\b(?:others?|rest)\b).)*?\b(?:is|was|are|were|be|seems?|looks?)\s+(?:\w+\s+)?{_FALSE}",
    re.IGNORECASE,
)
"""Matches words that, if the choices are unknown, may be a choice's own text."""
# In prose A is an article and I a pronoun, unless they stand in brackets, at the end, or A before a verb.
_LETTER = re.compile(
    r"\(\s*([A-Za-z])\s*\)|(?<![\w'’])([B-HJ-Z]|A(?=\s(?:is|was)\s|\W*\Z))(?![\w'’])"
)
_REASON = re.compile(r"[\s,;(]+(?:because|since)\s.*", re.IGNORECASE)
_AFFIRMED = re.compile(
    r"[\W_]*(?:is|was|must be|would be|seems|has to be)\s+(?:(?:the|a|really|actually|clearly|indeed|also)\s+){0,3}"
    r"(?:right|correct|true|best|better|answer|one)\b",
    re.IGNORECASE,
)
_CORRECTED = re.compile(r"\b(?:actually|wait|sorry|oops|correction|i mean|rather)\b", re.IGNORECASE)
_CONCLUDED = re.compile(
    r"(?!.*\b(?:not|neither|nor|never|unlike)\b).*(?<!\s[A-Z])[,;:.–—-]\s*(?:(?:so|then|thus|it is|it['’]s)\s+)?\W*\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Names:
    """The letters and texts of a question's choices."""

    letters: str
    """The letters that a choice may have."""
    texts: Mapping[str, str]
    """Their normalised texts by letter (see `normalised`); empty if they are unknown."""


def without_reason(line: str) -> tuple[str, str]:
    """A line up to the first "because" or "since" behind a word, and the rest of it."""
    reason = _REASON.search(line)
    return (line, "") if reason is None else (line[: reason.start()], reason.group())


def is_doubted(text: str, letter: str, names: Names, *, may_say_false: bool) -> bool:
    """Whether the explanation of a letter takes it back, names another, or has the text of another choice.

    Args:
        text: What follows the letter.
        letter: The letter that the answer gives.
        names: Letters and texts of all choices.
        may_say_false: Whether "false" may be the choice's own text.
    """
    return (
        has_hedge(text)
        # "No" alone may be the choice's text.
        or (" " in text and is_withdrawn(text, letter, names))
        or _IS_REJECTED.match(text) is not None
        or (not may_say_false and _IS_FALSE.match(without_reason(text)[0]) is not None)
        or any(other != letter for other, _, _ in _letters(text, names))
        or _has_other_text(normalised(text), letter, names)
    )


def gives_another(reason: str, letter: str, names: Names) -> bool:
    """Whether the reason for a letter says that another choice is right: "because B is the right one"."""
    for other, start, end in _mentions(reason, names):
        before, after = reason[:start], reason[end:]
        is_last = not any(map(str.isalnum, after))
        if other != letter and (
            _AFFIRMED.match(after)
            or _CORRECTED.search(before)
            or (is_last and _CONCLUDED.match(before))
        ):
            return True
    return False


def is_withdrawn(behind: str, letter: str, names: Names) -> bool:
    """Whether what follows a statement takes its letter back: "Actually, B.", "A is wrong, though."."""
    mentions = [*_mentions(behind, names)]
    own = [end for name, _, end in mentions if name == letter]
    if any(is_denied("", behind[end:]) for end in own):
        return True
    if not is_withdrawal(behind):
        return False
    return len(own) < len(mentions) or has_hedge(behind) or not (own or names.texts)


def _mentions(text: str, names: Names) -> Iterator[tuple[str, int, int]]:
    """The letters that a text names, directly or by a choice's text, each with its start and end."""
    yield from _letters(text, names)
    for letter, choice in names.texts.items():
        if choice:
            for found in re.finditer(rf"(?<!\w){re.escape(choice)}(?!\w)", text, re.IGNORECASE):
                yield letter, found.start(), found.end()


def _letters(text: str, names: Names) -> Iterator[tuple[str, int, int]]:
    for found in _LETTER.finditer(text):
        letter = (found[1] or found[2]).upper()
        if letter in names.letters:
            yield letter, found.start(), found.end()


def _has_other_text(text: str, letter: str, names: Names) -> bool:
    """Whether a normalised text contains another choice's text, and not the letter's own or only as a part of it."""
    found = {
        each: choice
        for each, choice in names.texts.items()
        if choice and re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text)
    }
    own = found.pop(letter, None)
    return any(own is None or (own in other and own != other) for other in found.values())
