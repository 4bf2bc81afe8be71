"""Answers that are one of several choices, by letter or by the choice's text."""

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.positions import (
    MAX_ANSWER_CHARS,
    last_line,
    only_line,
    stated_answer,
    states_gold,
)
from regime_w.answer_types.text import normalised
from regime_w.numbers.markup import without_markup, without_thoughts
from regime_w.numbers.statements import has_hedge

LETTERS = string.ascii_uppercase
"""Names of the choices, in order."""

_KIND = r"(?:(?:the\s+)?(?:option|choice|letter|answer)\s+)?"
_ALONE = re.compile(
    rf"{_KIND}[(\[]?\s*(?P<letter>[A-Za-z])\s*[)\]]?[\s.:,;!]*"
    r"(?:\s(?:is|was)\s(?:the\s)?(?:right|correct|best|true)(?:\s(?:answer|option|choice|one))?[\s.!]*)?",
    re.IGNORECASE,
)
_WITH_TEXT = re.compile(
    rf"{_KIND}(?:[(\[]\s*(?P<bracketed>[A-Za-z])\s*[)\]]|(?P<bare>[A-Za-z])(?:\s*[).:\]]|\s+[-–—=]))"
    r"\s*[.:–—-]?\s*(?P<text>.+)",
    re.IGNORECASE,
)
_REASON = re.compile(r"[\s,;(]+(?:because|since)\s.*", re.IGNORECASE)
_REJECTED = re.compile(
    r"(?:(?:this|that|it|which)\s+)?(?:(?:is|was|can|could|has|have|must|be|been|clearly|easily|also)\s+){0,4}"
    r"(?:(?:eliminat|exclud|reject|discard|dismiss|refut|contradict)ed\b|disprove[dn]\b|(?:ruled|crossed|struck)\sout\b"
    r"|[✗✘✕❌])",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"(?:no|nope|false|untrue|impossible|invalid|unlikely|out)\b", re.IGNORECASE)
"""Words that a choice may consist of: they refuse one only where the choices are known to be others."""
# In prose A is an article and I a pronoun, unless they stand in brackets.
_OTHER_LETTER = re.compile(r"\(\s*([A-Za-z])\s*\)|(?<![\w'’])([B-HJ-Z])(?![\w'’])")


def letter_of(index: int) -> str | None:
    """The letter of a choice by its index from 0; None where there is none."""
    return LETTERS[index] if 0 <= index < len(LETTERS) else None


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question with its choices below it, one a line, each with its letter.

    Args:
        question: Without its choices.
        choices: At most 26 texts; none leaves the question as it is.
    """
    if not choices:
        return question
    lines = [f"{letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False)]
    return "\n".join([question.rstrip(), "", *lines])


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several choices; canonical is its letter."""

    choices: tuple[str, ...] = ()
    """Their texts, first that of A; empty where the question alone has them."""

    name: ClassVar[AnswerTypeName] = "choice"
    is_canonical: ClassVar[bool] = True
    is_numeric: ClassVar[bool] = False

    @property
    def expected(self) -> str:
        """Which letters there are."""
        last = LETTERS[len(self.choices) - 1] if self.choices else "Z"
        texts = ", the text of one choice" if self.choices else ""
        return (
            f"one choice: give its letter, A to {last}{texts}, or a solution that ends in '#### B'"
        )

    def extract(self, text: str) -> str | None:
        """The stated letter or text of a choice, or that of a last line which is nothing else."""
        text = without_thoughts(text)
        stated = stated_answer(text)
        if stated is not None:
            return self.read(stated)
        line = last_line(text)
        return None if line is None else self._read(line, may_explain=False)

    def read(self, answer: str) -> str | None:
        """A letter, such as ``(b)``, a letter with a text, such as ``B. Paris``, or the text of one choice.

        None where letter and text are of two choices, or more than one is named.
        """
        return self._read(answer, may_explain=True)

    def read_gold(self, text: str) -> str | None:
        """A letter or the text of one choice, alone or as a solution states it after ``####`` or in a box."""
        if states_gold(text):
            return self.extract(text)
        return self._read(text, may_explain=False)

    def equal(self, a: str | None, b: str | None) -> bool:
        """Whether the letters are the same."""
        return a is not None and a == b

    def _read(self, answer: str, *, may_explain: bool) -> str | None:
        line = only_line(answer)
        if line is None:
            return None
        line = without_markup(line).strip(" $")
        alone = _ALONE.fullmatch(_REASON.sub("", line, count=1) if may_explain else line)
        if alone is not None:
            return self._letter(alone["letter"])
        named = self._named(line)
        if len(named) == 1:
            return named[0]
        found = _WITH_TEXT.fullmatch(line)
        letter = found and self._letter(found["bracketed"] or found["bare"])
        if not found or letter is None:
            return None
        named = self._named(found["text"])
        if named:
            return letter if letter in named else None
        return letter if may_explain and not self._is_in_doubt(found["text"], letter) else None

    def _letter(self, letter: str) -> str | None:
        index = LETTERS.index(letter.upper())
        return LETTERS[index] if index < (len(self.choices) or len(LETTERS)) else None

    def _named(self, text: str) -> list[str]:
        """The letters of the choices that have this text."""
        wanted = normalised(text)
        return [letter for letter, choice in self._texts() if wanted and choice == wanted]

    def _texts(self) -> Iterator[tuple[str, str]]:
        """The letters with their normalised texts."""
        for letter, choice in zip(LETTERS, self.choices, strict=False):
            # What is compared is one line of an answer: a longer choice is known by its letter alone.
            if len(choice) <= MAX_ANSWER_CHARS:
                yield letter, normalised(without_markup(choice))

    def _is_in_doubt(self, text: str, letter: str) -> bool:
        """Whether what follows a letter takes it back, names another, or has the text of another choice."""
        others = {(a or b).upper() for a, b in _OTHER_LETTER.findall(text)} - {letter}
        return (
            has_hedge(text)
            or _REJECTED.match(text) is not None
            or (bool(self.choices) and _REFUSED.match(text) is not None)
            or any(self._letter(other) for other in others)
            or self._has_other_text(normalised(text), letter)
        )

    def _has_other_text(self, text: str, letter: str) -> bool:
        """Whether a normalised text has another choice's text in it, and not the letter's own, or as a part of that."""
        found = {
            each: choice
            for each, choice in self._texts()
            if choice and re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text)
        }
        own = found.pop(letter, None)
        return any(own is None or (own in other and own != other) for other in found.values())
