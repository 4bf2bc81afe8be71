"""Whether an answer stands in the form that prompts ask for, or in a sentence."""

import pytest

from regime_w.answer_types.answer_type import AnswerType
from regime_w.answer_types.choice import Choice
from regime_w.answer_types.mathematics import Mathematics
from regime_w.answer_types.number import NUMBER
from regime_w.answer_types.text import Text

TYPES: list[tuple[AnswerType, str]] = [
    (NUMBER, "7"),
    (Choice(), "B"),
    (Text(), "Paris"),
    (Mathematics(), "x+1"),
]


@pytest.mark.parametrize(("kind", "answer"), TYPES, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        ("#### {}", True),
        ("So \\boxed{{{}}}.", True),
        ("<answer>{}</answer>", True),
        ("#### Step 2: compare\nSo \\boxed{{{}}}", True),
        ("The answer is {}.", False),
        ("{}", False),
        ("#### Step 2: compare\nThe answer is {}.", False),
        ("<think>#### 8</think>The answer is {}.", False),
    ],
)
def test_an_answer_is_formatted_where_a_marker_or_a_box_states_it(
    text: str, formatted: bool, kind: AnswerType, answer: str
) -> None:
    text = text.format(answer)
    assert kind.extract(text) is not None
    assert kind.is_formatted(text) == formatted


def test_no_answer_is_not_formatted() -> None:
    assert not NUMBER.is_formatted("#### none")
    assert not NUMBER.is_formatted("I give up.")
