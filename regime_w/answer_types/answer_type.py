"""What every answer type can do, and how equal answers in a group become the same text."""

from collections.abc import Sequence
from typing import Literal, Protocol

AnswerTypeName = Literal["number", "choice", "text", "math"]


class AnswerType(Protocol):
    """How the answers to a question are found in a text, read, and compared.

    Its methods return answers as canonical texts. No method raises on any text, and each looks at a bounded
    part of the text or scans it once.
    """

    @property
    def name(self) -> AnswerTypeName:
        """What settings and rollout files call the type."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts of a question's choices, first that of A; empty for other types, and if they are unknown."""

    @property
    def is_canonical(self) -> bool:
        """Whether equal answers are the same text, so that they need not be compared in pairs."""

    @property
    def is_numeric(self) -> bool:
        """Whether answers are numbers; for other answers s_path abstains."""

    @property
    def expected(self) -> str:
        """What to give as a gold answer, for the message about one that cannot be read."""

    def extract(self, text: str) -> str | None:
        """The answer of a completion without its prompt; None where it gives none."""

    def is_formatted(self, text: str) -> bool:
        """Whether `extract` takes the answer from a ``####``, a box or an element, and not from prose."""

    def read(self, answer: str) -> str | None:
        """Reads an answer that stands alone, canonical or as written; None if it is not an answer."""

    def read_gold(self, text: str) -> str | None:
        """Reads a gold answer, which stands alone or ends a solution; None if it cannot be read."""

    def equal(self, a: str | None, b: str | None) -> bool:
        """Whether two canonical answers are equal; None equals nothing, not even itself."""


def merged(
    answers: Sequence[str | None], gold: str | None, answer_type: AnswerType
) -> list[str | None]:
    """The answers, with equal ones replaced by the text of the first of them, so that texts can be counted.

    Args:
        answers: Canonical answers.
        gold: The canonical gold answer; None if there is none. All answers that equal it count as equal.
        answer_type: The type of all of them.
    """
    firsts: list[str] = []
    known: dict[str, str] = {}
    for answer in () if answer_type.is_canonical else answers:
        if answer is None or answer in known:
            continue
        is_right = answer_type.equal(answer, gold)
        peers = [first for first in firsts if answer_type.equal(first, gold) == is_right]
        same = (first for first in peers if is_right or answer_type.equal(answer, first))
        known[answer] = next(same, answer)
        if known[answer] == answer:
            firsts.append(answer)
    return [answer if answer is None else known.get(answer, answer) for answer in answers]
