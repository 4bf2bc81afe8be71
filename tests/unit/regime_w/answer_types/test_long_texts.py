"""Choices and texts are read in bounded time: a line is bounded, and a completion is scanned once.

For numbers see `test_long_text_ends` and `test_a_hostile_line_ends` in `tests/unit/regime_w/test_answers.py`.
"""

import pytest

from regime_w import answer_type_of
from regime_w.answer_types.answer_type import AnswerType

TYPES = [answer_type_of("choice", ["Paris", "a", "(" * 400]), answer_type_of("text")]
PLAIN = ["a", "1", "\n", " ", "the ", "or ", "- ", ", who ", "because "]
MARKS = ["*", "**a", "$", '"', "'", "_", "(", "²", "½", "\\", "\\text{", "#", "####", "#### A"]
STATEMENTS = ["answer is ", "one answer is ", "the answer is not A ", "\\boxed{", "not \\boxed{"]
STRUCK = [
    "~~a",
    "<s>a",
    "<answer>",
    "</s",
    "## answer\n",
    "Wait, A ",
    "A because B, ",
    "\\boxed{A} ",
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("unit", [*PLAIN, *MARKS, *STATEMENTS, *STRUCK])
@pytest.mark.parametrize("answer_type", TYPES, ids=lambda answer_type: answer_type.name)
def test_a_long_text_ends(answer_type: AnswerType, unit: str) -> None:
    # Quadratic work on these would not end within the timeout.
    answer_type.extract("a" + unit * (60_000 // len(unit)) + "x")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("unit", [*PLAIN, *MARKS, *STATEMENTS, *STRUCK])
@pytest.mark.parametrize("answer_type", TYPES, ids=lambda answer_type: answer_type.name)
def test_a_hostile_line_ends(answer_type: AnswerType, unit: str) -> None:
    # A line is bounded, so only repetition shows that it backtracks: 2 ms each, not 3 s.
    for before in ["#### ", "The answer is ", ""] * 3:
        answer_type.extract(before + (unit * 400)[:380] + "x")


@pytest.mark.parametrize(
    ("stated", "denied"),
    [("\\boxed{A}\n", "not \\boxed{B} "), ("The answer is A.\n", "If the answer is B, no.\n")],
    ids=["boxes", "sentences"],
)
@pytest.mark.parametrize("answer_type", TYPES, ids=lambda answer_type: answer_type.name)
def test_few_places_that_state_no_answer_are_looked_at(
    answer_type: AnswerType, stated: str, denied: str
) -> None:
    """Each takes a tenth of a millisecond, and a text of a megabyte has 80,000."""
    assert answer_type.extract(stated + denied * 99) == answer_type.read("A")
    assert answer_type.extract(stated + denied * 100) is None


@pytest.mark.parametrize("answer_type", TYPES, ids=lambda answer_type: answer_type.name)
def test_fields_of_no_object_do_not_count_among_these_places(answer_type: AnswerType) -> None:
    text = "The answer is A.\n" + 'It has the key "answer": \n' * 100
    assert answer_type.extract(text) == answer_type.read("A")
