"""The types of answers by their names."""

from collections.abc import Sequence

from regime_w.algebra.math_process import require_library
from regime_w.answer_types.answer_type import AnswerType, AnswerTypeName
from regime_w.answer_types.choice import Choice
from regime_w.answer_types.mathematics import Mathematics
from regime_w.answer_types.number import NUMBER
from regime_w.answer_types.text import Text


def answer_type_of(name: AnswerTypeName, choices: Sequence[str] = ()) -> AnswerType:
    """The type of a question's answer.

    Args:
        name: Name of the type.
        choices: The texts of the question's choices, for the type ``choice``.

    Raises:
        LibraryMissing: The type needs a library that is not installed.
    """
    if name == "choice":
        return Choice(tuple(choices))
    if name == "math":
        require_library()
        return Mathematics()
    return Text() if name == "text" else NUMBER
