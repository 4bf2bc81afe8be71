"""The types of answers by their names."""

from collections.abc import Sequence

from regime_w.answer_types.answer_type import AnswerType, AnswerTypeName
from regime_w.answer_types.choice import Choice
from regime_w.answer_types.number import NUMBER
from regime_w.answer_types.text import Text


def answer_type_of(name: AnswerTypeName, choices: Sequence[str] = ()) -> AnswerType:
    """The type of a question's answer.

    Args:
        name: Of the type.
        choices: The texts of the question's choices, for the type ``choice``.
    """
    if name == "choice":
        return Choice(tuple(choices))
    return Text() if name == "text" else NUMBER
