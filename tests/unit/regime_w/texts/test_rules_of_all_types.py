"""Rules about the place of an answer that hold for every type of answer."""

import pytest

from regime_w.answer_types.answer_type import AnswerType
from regime_w.answer_types.choice import Choice
from regime_w.answer_types.mathematics import Mathematics
from regime_w.answer_types.number import NUMBER
from regime_w.answer_types.text import Text

TYPES: list[tuple[AnswerType, str, str]] = [
    (NUMBER, "18", "20"),
    (Choice(), "B", "C"),
    (Choice(("London", "Paris")), "B", "A"),
    (Text(), "Paris", "London"),
    (Mathematics(), "x+1", "x+2"),
]
GIVEN = [
    # A box within another is no alternative to it, and neither is one that is never closed.
    "\\boxed{{{other} \\boxed{{{}}}}}",
    "\\boxed{{{other} \\boxed{{{}}}",
    "\\boxed{{{other}}}\n\\boxed{{{}}}",
    "<answer>" + "word " * 100 + "</answer>\nThe answer is {}.",
    "Part 1: \\boxed{{{other}}}\n\nEach of the two others may be tested in turn, or both at once.\n\nPart 2: \\boxed{{{}}}",
    # "The answer is" in other words, also in front of another number.
    "The answer equals {}.",
    "The answer is clearly {}. She has 3 friends.",
    "The answer is definitely: {}. She has 3 friends.",
    # A heading in bold with a colon, and what follows the answer.
    "**Answer:**\n{}\n\nThis is 3 times 6.",
    "3*6 = 9 + 9\n\n**The answer:**\n\n{}\n\n**Explanation:** We multiply 3 by 6.",
    "### Answer:\n{}\n\nEach of the 3 boxes holds 6.",
    "The choice is\nFinal answer\n{}\nWe used 3",
    # A field of JSON.
    '{{"answer":\n"{}"}}',
    '{{"steps": 3, "answer" : "{}", "time": 5}}',
]
NOT_GIVEN = [
    "\\boxed{{{other}}} or \\boxed{{{}}}",
    "\\boxed{{{other}}}\nor\n\\boxed{{{}}}",
    "$\\boxed{{{other}}}$ or\n\n$\\boxed{{{}}}$",
]


@pytest.mark.parametrize("text", GIVEN)
@pytest.mark.parametrize(("kind", "answer", "other"), TYPES)
def test_the_answer_is_found(text: str, kind: AnswerType, answer: str, other: str) -> None:
    assert kind.extract(text.format(answer, other=other)) == kind.read(answer)


@pytest.mark.parametrize("text", NOT_GIVEN)
@pytest.mark.parametrize(("kind", "answer", "other"), TYPES)
def test_two_answers_are_none(text: str, kind: AnswerType, answer: str, other: str) -> None:
    assert kind.extract(text.format(answer, other=other)) is None


@pytest.mark.parametrize("text", ["Option: 20", "The best choice is 20", "**Answer**\n20"])
def test_words_for_choices_and_texts_announce_no_number(text: str) -> None:
    assert NUMBER.extract(f"{text}\nShe has 18 eggs") == "18"
