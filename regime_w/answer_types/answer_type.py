"""What every answer type can do, and how equal answers in a group become the same text."""

from collections.abc import Sequence
from typing import Literal, Protocol

AnswerTypeName = Literal["number", "choice", "text", "math"]

_MAX_COMPARED = 28
"""Most pairs of answers that are compared for a group, beside each answer with the gold answer: all pairs of eight.

Computer algebra takes up to seconds for a pair, and 64 answers have 2016 pairs."""


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

    def may_be_equal(self, a: str, b: str) -> bool:
        """Whether two different canonical answers may be equal, as far as can be told at once."""

    def equal(self, a: str | None, b: str | None) -> bool:
        """Whether two canonical answers are equal; None equals nothing, not even itself."""


def merged(
    answers: Sequence[str | None], gold: str | None, answer_type: AnswerType
) -> list[str | None]:
    """The answers, with equal ones replaced by the text of the first of them, so that texts can be counted.

    Answers that do not equal the gold answer are compared with each other until `_MAX_COMPARED` pairs that may be equal
    were; from then on they equal only the same text.

    Args:
        answers: Canonical answers.
        gold: The canonical gold answer; None if there is none. All answers that equal it count as equal.
        answer_type: The type of all of them.
    """
    right: list[str] = []
    wrong: list[str] = []
    known: dict[str, str] = {}
    pairs_left = iter(range(_MAX_COMPARED))

    def are_same(a: str, b: str) -> bool:
        if not answer_type.may_be_equal(a, b):
            return False
        return next(pairs_left, None) is not None and answer_type.equal(a, b)

    for answer in dict.fromkeys(each for each in answers if each is not None):
        is_right = answer_type.equal(answer, gold)
        peers = right if is_right else wrong
        known[answer] = next((peer for peer in peers if is_right or are_same(answer, peer)), answer)
        if known[answer] == answer:
            peers.append(answer)
    return [None if answer is None else known[answer] for answer in answers]
