"""What every answer type can do, and how equal answers in a group become the same text."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, Protocol

from regime_w.answer_types.kinds import Kind, comparable_kinds

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

    def kind(self, answer: str) -> Kind:
        """The kind of a canonical answer, which tells at once what it may equal."""

    def equal(self, a: str | None, b: str | None) -> bool:
        """Whether two canonical answers are equal; None equals nothing, not even itself."""


def merged(
    answers: Sequence[str | None], gold: str | None, answer_type: AnswerType
) -> list[str | None]:
    """The answers, with equal ones replaced by the text of the first of them, so that texts can be counted.

    Answers that do not equal the gold answer are compared with each other until `_MAX_COMPARED` pairs were, in their order;
    from then on they equal only the same text. Pairs whose kinds tell that they differ are neither compared nor looked at.

    Args:
        answers: Canonical answers.
        gold: The canonical gold answer; None if there is none. All answers that equal it count as equal.
        answer_type: The type of all of them.
    """
    known: dict[str, str] = {}
    right: str | None = None  # the first of the right ones
    wrong: dict[Kind, list[str]] = defaultdict(list)  # by each kind of answer that they may equal
    pairs_left = _MAX_COMPARED
    for answer in dict.fromkeys(each for each in answers if each is not None):
        if answer_type.equal(answer, gold):
            right = answer if right is None else right
            known[answer] = right
            continue
        kind = answer_type.kind(answer)
        for peer in wrong[kind][:pairs_left]:
            pairs_left -= 1
            if answer_type.equal(answer, peer):
                known[answer] = peer
                break
        else:
            known[answer] = answer
            for other in comparable_kinds(kind):
                wrong[other].append(answer)
    return [None if answer is None else known[answer] for answer in answers]
