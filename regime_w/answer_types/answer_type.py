"""What every type of answer can do, and how equal answers of a group become the same text."""

from collections.abc import Sequence
from typing import Literal, Protocol

AnswerTypeName = Literal["number", "choice", "text"]


class AnswerType(Protocol):
    """How the answers to a question are found in a text, read, and compared.

    Answers leave it as canonical texts. No method raises on any text, and each looks at a bounded part of
    it or scans it once.
    """

    @property
    def name(self) -> AnswerTypeName:
        """What settings and rollout files call the type."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts of a question's choices, first that of A; empty for other types, or where unknown."""

    @property
    def is_canonical(self) -> bool:
        """Whether equal answers are the same text, so that they need not be compared in pairs."""

    @property
    def is_numeric(self) -> bool:
        """Whether answers may be numbers; of others s_path abstains."""

    @property
    def expected(self) -> str:
        """What to give as a gold answer, for the message about one that cannot be read."""

    def extract(self, text: str) -> str | None:
        """The answer of a completion without its prompt; None where it gives none."""

    def read(self, answer: str) -> str | None:
        """An answer that stands alone, canonical or as written; None where it is none."""

    def read_gold(self, text: str) -> str | None:
        """The answer of a gold answer: alone, or at the end of a solution; None where it cannot be read."""

    def equal(self, a: str | None, b: str | None) -> bool:
        """Whether two canonical answers are equal; None equals nothing, not even itself."""

    def number(self, answer: str) -> str | None:
        """A canonical answer as a canonical number, for equations that lead to it; None where it is none."""


def merged(
    answers: Sequence[str | None], gold: str | None, answer_type: AnswerType
) -> tuple[str | None, ...]:
    """Answers in which equal ones are the same text, that of the first of them.

    Counting texts then counts answers. All answers that equal the gold answer are one.

    Args:
        answers: Canonical.
        gold: Canonical; None where there is none.
        answer_type: Of all of them.
    """
    if answer_type.is_canonical:
        return tuple(answers)
    known: dict[str, str] = {}
    firsts: list[tuple[str, bool]] = []
    for answer in answers:
        if answer is None or answer in known:
            continue
        is_right = answer_type.equal(answer, gold)
        for first, first_is_right in firsts:
            if is_right == first_is_right and (is_right or answer_type.equal(answer, first)):
                known[answer] = first
                break
        else:
            known[answer] = answer
            firsts.append((answer, is_right))
    return tuple(None if answer is None else known[answer] for answer in answers)
