"""What announces an answer of any type: headings, fields of JSON, adverbs, and what is denied before it."""

import pytest

from regime_w.answer_types.answer_type import AnswerType
from regime_w.answer_types.choice import Choice
from regime_w.answer_types.mathematics import Mathematics
from regime_w.answer_types.text import Text
from regime_w.texts.fields import field_value

TYPES: list[tuple[AnswerType, str, str]] = [
    (Choice(), "B", "C"),
    (Choice(("London", "Paris")), "B", "A"),
    (Text(), "Paris", "London"),
    (Mathematics(), "x+1", "x+2"),
]
STATED = [
    # Under a heading of work it is stated, or not at all.
    "#### Reasoning\nWe compare. The answer is {}.",
    "#### Step-by-step reasoning:\nWe compare. The answer is {}.",
    "#### **Verification**\nIt holds: \\boxed{{{}}}",
    "#### Let us think\nThe answer is {}",
    "The answer is {other}.\n#### Check and verification\nNo. The answer is {}.",
    "#### Reasoning\nWe compare.\n#### {}",
    "#### So the answer is {}",
    # Adverbs.
    "The answer is clearly {}.",
    "The answer is therefore {}.",
    "The answer is, as said, {other}. So the answer is definitely: {}.",
    # Denied first.
    "The answer is not {other} but {}.",
    "The answer is not {other}, but rather {}.",
    # Fields.
    'The answer is {}.\nShe said:"answer": "{other}".',
    '{{"answer": "{}"}}',
    "{{'answer': '{}'}}",
    '{{"reasoning": "The answer is {other}.", "final_answer": "{}"}}',
    '```json\n{{\n  "answer": "{}",\n  "sure": true\n}}\n```',
    '{{"steps": ["one", "two"], "answer": "{}", "sure": true}}',
]
NOT_STATED = [
    "#### Verify\nLooks right.",
    "The answer is {}.\n\n#### Verification\nLooks right.",
    "#### Explanation\n{}",
    "#### {}\n\n#### Note\nThis was easy.",
    "The answer is not {} but it may be {other}.",
    '{{"answer": {}}}',
    '{{"answer": ["{}", "{other}"]}}',
    '{{"answer": "{}", "{other}"}}',
    '{{"answer": "{}" or "{other}"}}',
    '{{"answer": "{}", "is_correct": false}}',
    '{{"answer": "{}", "correct_answer": "{other}"}}',
    '{{"answer": "{}"}}\nWait, that is wrong. It is {other}.',
    'I write it so:\nFor example {{"answer": "{}"}}',
    "The answer is not clear but {}",
    "The answer is not certain, but {}.",
    '{{"answer": ""}}',
    '{{"answer": }}',
    "The answer is definitely not {}.",
]


@pytest.mark.parametrize("text", STATED)
@pytest.mark.parametrize(("kind", "answer", "other"), TYPES)
def test_an_announced_answer_is_found(text: str, kind: AnswerType, answer: str, other: str) -> None:
    assert kind.extract(text.format(answer, other=other)) == kind.read(answer)


@pytest.mark.parametrize("text", NOT_STATED)
@pytest.mark.parametrize(("kind", "answer", "other"), TYPES)
def test_what_announces_none_gives_none(
    text: str, kind: AnswerType, answer: str, other: str
) -> None:
    assert kind.extract(text.format(answer, other=other)) is None


@pytest.mark.parametrize("word", ["Reasoning", "Proof", "Verify"])
def test_a_word_with_nothing_below_is_no_heading(word: str) -> None:
    assert Text().extract(f"We look.\n#### {word}") == word.lower()
    assert Choice((word, "Other")).extract(f"We look.\n#### {word}") == "A"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"answer": "B"}', ("B", "")),
        ('{"answer": "B"}\nSo it is.', ("B", "So it is.")),
        ('{"answer": "a \\"b\\" c", "d": "e"}', ('a \\"b\\" c', "")),
        (r'{"answer": "\\frac{1}{2}"}', (r"\frac{1}{2}", "")),
        ("{'answer': 'B'}", ("B", "")),
        ('{"answer": 7}', ("7", "")),
        ('{"answer": 7, "sure": true}', ("7", "")),
        ('{"answer": 1,000}', ("", "")),
        ('{"answer": [1, 2]}', ("", "")),
        ('{"answer": "open', ("", "")),
        ('"answer": "B"', ("", "")),
    ],
)
def test_a_field_holds_a_string_or_a_number(text: str, value: tuple[str, str]) -> None:
    assert field_value(text, text.index(":") + 2) == value


def test_an_adverb_before_a_predicate_announces_no_answer() -> None:
    assert Text().extract("The answer is clearly stated in it.") == "clearly stated in it"
    assert Text().extract("The answer is clearly Paris.") == "paris"
