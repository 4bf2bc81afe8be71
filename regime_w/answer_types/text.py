"""Answers that are a text, compared exactly after normalisation."""

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.positions import (
    MAX_ANSWER_CHARS,
    only_line,
    stated_answer,
    states_gold,
)
from regime_w.numbers.markup import without_thoughts

_SAME = str.maketrans(
    {**dict.fromkeys("‘’‛`´", "'"), **dict.fromkeys("“”„", '"'), **dict.fromkeys("‐‑‒–—−", "-")}
)
_LATEX_TEXT = re.compile(r"\\(?:text|math|mbox|emph)(?:bf|rm|it|tt|sf|up|normal)?\s*\{([^{}]*)\}")
_AROUND = " \t.,;:!?\"'*_$()[]{}\\"
_ROUNDS = 8
"""Normalisation is repeated so that nothing changes any more; two rounds do for all but odd texts."""


def normalised(text: str) -> str:
    """A text without case, markup, punctuation around it, and runs of white space.

    Punctuation within it stays, as do articles and accents: exact is what is left.
    """
    for _ in range(_ROUNDS):
        text = unicodedata.normalize("NFKC", text).casefold().translate(_SAME)
        text = " ".join(_LATEX_TEXT.sub(r"\1", text).replace("**", "").split()).strip(_AROUND)
    return text


@dataclass(frozen=True, slots=True)
class Text:
    """A short text such as a name, by normalised exact match."""

    name: ClassVar[AnswerTypeName] = "text"
    choices: ClassVar[tuple[str, ...]] = ()
    is_numeric: ClassVar[bool] = False
    expected: ClassVar[str] = (
        f"one line of at most {MAX_ANSWER_CHARS} characters: give the answer alone, or a solution that ends "
        "in '#### Paris'"
    )

    def extract(self, text: str) -> str | None:
        """The stated answer, or a completion that is one line."""
        text = without_thoughts(text)
        stated = stated_answer(text)
        line = only_line(text) if stated is None else stated
        return None if line is None else self.read(line)

    def read(self, answer: str) -> str | None:
        """The normalised answer; None where nothing is left of it."""
        line = only_line(answer)
        return None if line is None else normalised(line) or None

    def read_gold(self, text: str) -> str | None:
        """A line, or what a solution states after ``####`` or in a box."""
        return self.read((stated_answer(text) or "") if states_gold(text) else text)

    def equal(self, a: str | None, b: str | None) -> bool:
        """Whether the normalised texts are the same."""
        return a is not None and a == b
