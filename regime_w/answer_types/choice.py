"""Answers that are one of several choices, by letter or by the choice's text."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.conclusions import conclusion_of, without_another
from regime_w.answer_types.contradictions import (
    Names,
    gives_another,
    is_doubted,
    is_withdrawn,
    without_reason,
)
from regime_w.answer_types.kinds import Kind
from regime_w.answer_types.stated_answers import (
    MAX_ANSWER_CHARS,
    StatedAnswer,
    last_lines,
    only_line,
    stated_answer,
    states_gold,
    states_in_form,
)
from regime_w.answer_types.text import normalised
from regime_w.texts.completions import completion_of
from regime_w.texts.markup import without_markup

LETTERS = string.ascii_uppercase
"""Names of the choices, in order."""

_KIND = r"(?:(?:the\s+)?(?:option|choice|letter|answer)(?:\s*:)?\s+)?"
_ALONE = re.compile(
    rf"{_KIND}[(\[]?\s*(?P<letter>[A-Za-z])\s*[)\]]?[\s.:,;!。！]*"
    r"(?:\s(?:is|was|must\sbe)\s(?:(?:the|my)\s)?(?:final\s)?"
    r"(?:(?:right|correct|best|true)(?:\s(?:answer|option|choice|one))?|answer)[\s.!。！]*)?",
    re.IGNORECASE,
)
_WITH_TEXT = re.compile(
    rf"{_KIND}(?:[(\[]\s*(?P<bracketed>[A-Za-z])\s*[)\]]|(?P<bare>[A-Za-z])"
    r"(?:(?P<item>\s*\)|(?=\s+\([^()]*\)[\s.]*\Z))|\s*[.:\]]|\s+[-–—=]))"
    r"\s*[.:–—-]?\s*(?P<text>.+)",
    re.IGNORECASE,
)
_BESIDE_ITS_TEXT = (
    re.compile(r"(?P<text>[^()\[\]]+[^()\[\]\s])\s*[(\[]\s*(?P<letter>[A-Za-z])\s*[)\]][\s.]*"),
    re.compile(rf"{_KIND}[(\[]?(?P<letter>[A-Za-z])[)\]]?,\s+(?P<text>.+)", re.IGNORECASE),
)
"""A letter beside the text of its choice: "Rome (B)", "B, Rome"."""
_LETTERS_ALONE = re.compile(
    r"[\s,;&/]*(?:(?:and|or)\s+)?[(\[]?[A-Za-z][)\]]?(?:[\s,;&/]+(?:(?:and|or)\s+)?[(\[]?[A-Za-z][)\]]?)*[\s.]*"
)
_QUOTES = str.maketrans("‘’“”", "''\"\"")
# "A'" means something other than "A".
_PRIMED = re.compile(r"[\s*_$(\[{]*[A-Za-z]['’′](?!\w)")


def letter_of(index: int) -> str | None:
    """The letter of a choice by its index from 0; None if there is no such letter."""
    return LETTERS[index] if 0 <= index < len(LETTERS) else None


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question with its choices below it, one on each line, each with its letter.

    Args:
        question: The question without its choices.
        choices: At most 26 texts; none leaves the question as it is.
    """
    if not choices:
        return question
    lines = [f"{letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False)]
    return "\n".join([question.rstrip(), "", *lines])


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several choices; its letter is the canonical answer."""

    choices: tuple[str, ...] = ()
    """Their texts, first that of A; empty if only the question shows them."""

    name: ClassVar[AnswerTypeName] = "choice"
    is_numeric: ClassVar[bool] = False

    @property
    def expected(self) -> str:
        """Which letters, and whether texts, may be given as a gold answer."""
        last = LETTERS[len(self.choices) - 1] if self.choices else "Z"
        texts = ", the text of one choice" if self.choices else ""
        return (
            f"one choice: give its letter, A to {last}{texts}, or a solution that ends in '#### B'"
        )

    def extract(self, text: str) -> str | None:
        """The letter of the choice that is stated, by letter or text, or that makes up the last line.

        None if what follows takes it back, or if it belongs to a list of choices.
        """
        text = completion_of(text)
        stated = stated_answer(text)
        if stated is not None:
            letter = self._read(stated.line, may_explain=not stated.is_label)
            if letter is None or self._goes_on(stated, letter):
                return None
            behind = "" if stated.is_marked else without_markup(stated.behind)
            return None if is_withdrawn(behind, letter, self._names()) else letter
        line, before = last_lines(text)
        letter = self._read_last(line)
        return None if letter is None or self._read_last(before) not in (None, letter) else letter

    def is_formatted(self, text: str) -> bool:
        """Whether `extract` takes the answer from a ``####``, a box or an element."""
        return states_in_form(completion_of(text))

    def read(self, answer: str) -> str | None:
        """A letter, such as ``(b)``, a letter with a text, such as ``B. Paris``, or the text of one choice.

        None if letter and text belong to two choices, or if more than one is named.
        """
        return self._read(answer, may_explain=True)

    def read_gold(self, text: str) -> str | None:
        """A letter or the text of one choice, alone or as a solution states it after ``####`` or in a box."""
        if states_gold(text):
            return self.extract(text)
        return self._read(text, may_explain=False)

    def is_ambiguous(self, gold: str) -> bool:
        """Whether a gold answer is just a letter that is also another choice's text: ``A`` for ``["B", "A"]``."""
        letter = self.read_gold(gold)
        stated = stated_answer(gold) if states_gold(gold) else None
        alone = normalised(gold if stated is None else stated.line)
        texts = self._names().texts.items()
        return any(
            (other != letter and text == alone)
            for other, text in texts
            if letter and alone == letter.lower()
        )

    def kind(self, answer: str) -> Kind:
        """Always the same: an answer has one form."""
        return Kind.FIXED

    def equal(self, a: str | None, b: str | None) -> bool:
        """Whether the letters are the same."""
        return a is not None and a == b

    def _read_last(self, line: str | None) -> str | None:
        """Reads a line that is not announced as the answer."""
        if line is None:
            return None
        # If no choices are known, a lone I is a pronoun.
        if not self.choices and line.strip(" .!,*") == "I":
            return None
        conclusion, is_choice = conclusion_of(line)
        if not is_choice and not self._named(conclusion):
            return None
        return self._read(conclusion, may_explain=False)

    def _goes_on(self, stated: StatedAnswer, letter: str) -> bool:
        """Whether the next line gives the next choice in the same form: a list of choices is not an answer."""
        line = only_line(stated.behind.removeprefix("\n").partition("\n")[0])
        if (
            not stated.behind.startswith("\n")
            or line is None
            or letter == self._names().letters[-1]
        ):
            return False
        is_alone = [
            _ALONE.fullmatch(without_markup(each)) is not None for each in (stated.line, line)
        ]
        return is_alone[0] == is_alone[1] and self._read_last(line) == chr(ord(letter) + 1)

    def _read(self, answer: str, *, may_explain: bool) -> str | None:
        """Reads a line; with ``may_explain`` it is known to give an answer, and may say why."""
        line = only_line(answer)
        if line is None or _PRIMED.match(line) or "~~" in line:
            return None
        line = without_markup(line.translate(_QUOTES)).strip(" $")
        whole = [] if _ALONE.fullmatch(line) else self._named(line)
        if len(whole) == 1:
            return whole[0]
        line = without_another(line)
        head, reason = without_reason(line) if may_explain else (line, "")
        alone = _ALONE.fullmatch(head)
        letter = alone and self._letter(alone["letter"])
        if letter:
            return None if gives_another(reason, letter, self._names()) else letter
        named = self._named(line)
        if len(named) == 1:
            return named[0]
        for beside in filter(None, (pattern.fullmatch(line) for pattern in _BESIDE_ITS_TEXT)):
            letter = self._letter(beside["letter"])
            if letter and self._named(beside["text"]) == [letter]:
                return letter
        found = _WITH_TEXT.fullmatch(line)
        letter = found and self._letter(found["bracketed"] or found["bare"])
        if not found or letter is None:
            return None
        named = self._named(found["text"])
        if named:
            return letter if letter in named else None
        # If the choices are unknown, "B) London" gives one, but "E. coli" does not.
        is_unknown = not self.choices
        is_item = is_unknown and (found["bracketed"] or found["item"] is not None)
        if not (may_explain or is_item) or _LETTERS_ALONE.fullmatch(found["text"]):
            return None
        may_say_false = is_unknown and may_explain
        doubted = is_doubted(found["text"], letter, self._names(), may_say_false=may_say_false)
        return None if doubted else letter

    def _letter(self, letter: str) -> str | None:
        """A letter as a capital; None if no choice has it."""
        return letter.upper() if letter.upper() in self._names().letters else None

    def _named(self, text: str) -> list[str]:
        """The letters of the choices that have this text."""
        wanted = normalised(text)
        return [
            letter for letter, choice in self._names().texts.items() if wanted and choice == wanted
        ]

    def _names(self) -> Names:
        return _names_of(self.choices)


@lru_cache(maxsize=16)
def _names_of(choices: tuple[str, ...]) -> Names:
    # Only one line of an answer is compared, so a longer choice is recognised only by its letter.
    texts = {
        letter: normalised(without_markup(choice))
        for letter, choice in zip(LETTERS, choices, strict=False)
        if len(choice) <= MAX_ANSWER_CHARS
    }
    return Names(LETTERS[: len(choices) or None], texts)
