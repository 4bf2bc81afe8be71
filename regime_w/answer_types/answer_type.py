"""What every type of answer can do."""

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
    def is_numeric(self) -> bool:
        """Whether answers are numbers; of others s_path abstains."""

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
