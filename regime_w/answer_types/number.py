"""Answers that are one number, read exactly."""

import re
from dataclasses import dataclass
from typing import ClassVar

from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.kinds import Kind
from regime_w.numbers.answers import answers_agree, extract_answer, extract_gold, is_formatted

_WHOLE = re.compile("0|-?[1-9][0-9]{0,50}")
"""Canonical whole numbers, which need not be read again."""


@dataclass(frozen=True, slots=True)
class Number:
    """One number, in the form of `regime_w.extract_answer`: ``$1,018.00`` is ``1018``."""

    name: ClassVar[AnswerTypeName] = "number"
    choices: ClassVar[tuple[str, ...]] = ()
    is_numeric: ClassVar[bool] = True
    expected: ClassVar[str] = (
        "one number: give the number alone, or a solution that ends in '#### 18'"
    )

    def extract(self, text: str) -> str | None:
        """See `regime_w.extract_answer`."""
        return extract_answer(text)

    def is_formatted(self, text: str) -> bool:
        """See `regime_w.numbers.answers.is_formatted`."""
        return is_formatted(text)

    def read(self, answer: str) -> str | None:
        """A number, or a text that gives one (``#### 7``)."""
        return answer if _WHOLE.fullmatch(answer) else extract_answer(answer)

    def read_gold(self, text: str) -> str | None:
        """See `regime_w.extract_gold`."""
        return extract_gold(text)

    def kind(self, answer: str) -> Kind:
        """Always the same: an answer has one form."""
        return Kind.FIXED

    def equal(self, a: str | None, b: str | None) -> bool:
        """Exact equality."""
        return answers_agree(a, b)


NUMBER = Number()
"""The default type of answers."""
