"""Choices: which letter a completion gives, and when it gives none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_w.answer_types.choice import Choice, letter_of, with_choices

CITIES = Choice(("Paris", "London", "Rome", "It will not rain"))
NUMBERS = Choice(("1", "2", "3", "12"))
OPEN = Choice()

GIVEN = [
    # After the marker.
    ("#### B", "B"),
    ("Because of this.\n#### C", "C"),
    ("#### b", "B"),
    ("#### (B)", "B"),
    ("#### [B]", "B"),
    ("#### B.", "B"),
    ("#### B)", "B"),
    ("#### **B**", "B"),
    ("#### $B$", "B"),
    ("#### \\text{B}", "B"),
    ("#### \\boxed{B}", "B"),
    ("#### \\textbf{(B)}", "B"),
    ("####\nB", "B"),
    ("#### Final Answer\n\nB", "B"),
    ("#### Option B", "B"),
    ("#### The choice B", "B"),
    ("#### Answer: B", "B"),
    ("#### The answer is B.", "B"),
    ("#### The correct option is (C).", "C"),
    ("#### A\n#### B", "B"),
    ("#### B\nSo it is London.", "B"),
    # Letter and text.
    ("#### B) London", "B"),
    ("#### B. London", "B"),
    ("#### B: London", "B"),
    ("#### B - London", "B"),
    ("#### (B) london.", "B"),
    ("#### D) It will not rain", "D"),
    ("#### B. London, the capital", "B"),
    ("#### B because it is the capital", "B"),
    ("#### B, since C is in Italy", "B"),
    ("#### option B is correct", "B"),
    ("#### B. Because C is wrong", "B"),
    # The text alone.
    ("#### London", "B"),
    ("#### LONDON.", "B"),
    ("#### It will not rain.", "D"),
    # Elsewhere.
    ("So \\boxed{\\text{(C)}}.", "C"),
    ("The answer is A. Paris is in France.", "A"),
    ("The answer is (D).", "D"),
    ("Thus the answer is **B**.", "B"),
    ("The correct answer is: C", "C"),
    ("C", "C"),
    ("It rains in London.\nB", "B"),
    ("I think of it.\nB) London", "B"),
    ("The tower is there.\nParis", "A"),
    # Another letter is named behind it, and not as the answer.
    ("The answer is B. The incorrect option is A.", "B"),
    ("**Answer: B**\nThe most tempting option is **A**.", "B"),
    ("The correct option is C. Another option: A", "C"),
    ("The answer is B. If the answer was A, it would rain.", "B"),
    ("The answer is B. I thought the answer was A.", "B"),
    ("The answer is B. The answer is not A.", "B"),
    ("The answer is B. The correct option isn't A.", "B"),
    ("So \\boxed{B}. The tempting choice is \\boxed{A}.", "B"),
    ("\\boxed{B}, and not \\boxed{A}", "B"),
    ("The answer is B\n\nA is wrong", "B"),
    ("#### B\nThe tempting choice is A", "B"),
    # Clauses and adjectives that change nothing.
    ("Since A is wrong, the answer is B", "B"),
    ("If it rains, then the answer is B.", "B"),
    ("A is not right, so the right option is B.", "B"),
    ("I am not sure, but the most likely answer is B.", "B"),
    ("> The answer is B", "B"),
    ("### Final Answer: B", "B"),
    ("2) Answer: B", "B"),
    ("Thus, the only remaining choice is (B).", "B"),
    ("I choose option: B", "B"),
    ("The answer is not obvious.\n#### B", "B"),
    ("So it is not A, and \\boxed{B}", "B"),
    # A text that has the letter's own choice in it, or no other's.
    ("#### B: London is the capital", "B"),
    ("#### B. London, since Rome is in Italy", "B"),
    ("#### B - the capital of England", "B"),
    ("#### B. The others are eliminated", "B"),
    # Headings.
    ("#### B ####", "B"),
    ("#### Solution\nB", "B"),
    ("#### Answer to the question\n> B", "B"),
    ("#### Step 2\nIt is in England.\nThe answer is B.", "B"),
    ("#### Solution\nIt is in England.\nThe answer is B.", "B"),
]
NONE = [
    "",
    " ",
    "#### ",
    "#### final_answer",
    "#### A or B",
    "#### A, B",
    "#### A and C",
    "#### (A) and (C)",
    "#### A/B",
    "#### E",
    "#### Z",
    "#### not B",
    "#### B? or maybe C",
    "#### B. Or C",
    "#### B. C is wrong",
    "#### B. Not this one",
    "#### B) Paris",
    "#### (A) Rome",
    "#### A cat",
    "#### Berlin",
    "#### Paris or Rome",
    "#### 2",
    "#### BC",
    "#### None of these",
    "End with '#### B'",
    "The answer is A or B.",
    "The answer is not known.",
    "I like A.",
    "A and B are both right.",
    "Because of B. London it is.",
    "The answer could be B",
    "\\boxed{}",
    "\\boxed{A, C}",
    "\\boxed{B",
    "B is in England.",
    "A city\nlies at a river.",
    "#### " + "B" * 500,
    "#### B) " + "very " * 200 + "far",
    "Option A is wrong, so B",
    "Paris is not London",
    "#### -",
    "The incorrect option is A.",
    "Why not A? The tempting choice is A.",
    "The answer is B. Why not A? The tempting choice is A.",
    "The answer is B and the tempting choice is A.",
    "One option is A.",
    "The other choice is A.",
    "If the answer was A",
    "Suppose the answer is A.",
    "I don't think the answer is A.",
    "It is wrong that the answer is A.",
    "The answer is not A",
    "The answer isn't A",
    "The answer is A. The answer is not A.",
    "The answer is A. The answer is not A but another.",
    "A is wrong",
    "The answer is wrong",
    "It is not \\boxed{A}",
    "The tempting choice is \\boxed{A}",
    "#### A - eliminated",
    "#### A: ruled out",
    "#### (A) can be excluded",
    "#### A) has been rejected since it rains",
    "#### A. ✗",
    "#### A: no",
    "#### A - impossible",
    "#### A: Rome is the capital",
    "#### A - it is Rome",
    "The answer is A: Rome is the capital.",
    "#### Step 2\nA",
    "#### Solution\nI see.\nB",
    "#### Final Answer\n- A\n- B",
]


@pytest.mark.parametrize(("text", "letter"), GIVEN)
def test_a_choice_is_found(text: str, letter: str) -> None:
    assert CITIES.extract(text) == letter
    assert CITIES.equal(CITIES.extract(text), letter)
    assert CITIES.read(letter) == letter


@pytest.mark.parametrize("text", NONE)
def test_no_choice_is_guessed(text: str) -> None:
    assert CITIES.extract(text) is None
    assert not CITIES.equal(CITIES.extract(text), None)


def test_a_text_that_is_a_number_is_no_index() -> None:
    assert NUMBERS.extract("#### 12") == "D"
    assert NUMBERS.extract("#### 3") == "C"
    assert NUMBERS.extract("#### 0") is None


def test_a_text_that_two_choices_have_names_neither() -> None:
    twice = Choice(("5", "6", "5"))
    assert twice.extract("#### 5") is None
    assert twice.extract("#### 6") == "B"
    assert twice.extract("#### C) 5") == "C"


def test_a_text_within_a_longer_one_is_not_the_shorter_choice() -> None:
    both = Choice(("Rome", "Paris", "Rome and Paris"))
    assert both.extract("#### A: Rome and Paris alike") is None
    assert both.extract("#### C: Rome and Paris alike") == "C"
    assert both.extract("#### A: Rome alone") == "A"


@pytest.mark.parametrize(
    ("answer", "letter"), [("(1, 2)", "A"), ("[1, 2]", "B"), ("5", "C"), (".5", "D")]
)
def test_texts_that_differ_in_a_sign_are_different_choices(answer: str, letter: str) -> None:
    assert Choice(("(1, 2)", "[1, 2]", "5", ".5")).extract(f"#### {answer}") == letter


def test_without_texts_every_letter_is_a_choice() -> None:
    assert OPEN.extract("#### A) No") == OPEN.extract("#### A) False") == "A"
    assert OPEN.extract("#### A - eliminated") is None
    assert OPEN.extract("#### E") == "E"
    assert OPEN.extract("#### B) Paris") == "B"
    assert OPEN.extract("#### Paris") is None


@pytest.mark.parametrize(
    ("gold", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("London", "B"),
        ("B) London", "B"),
        ("It is in England.\n#### B", "B"),
        ("So \\boxed{B}", "B"),
        ("E", None),
        ("Berlin", None),
        ("A or B", None),
        ("B) Paris", None),
        ("1", None),
        ("It is\nB", None),
        ("#### ", None),
        ("", None),
    ],
)
def test_gold_answers(gold: str, letter: str | None) -> None:
    assert CITIES.read_gold(gold) == letter


def test_what_is_expected_says_which_letters_there_are() -> None:
    assert "A to D, the text of one choice" in CITIES.expected
    assert "A to Z, or" in OPEN.expected


def test_questions_show_their_choices() -> None:
    assert with_choices("Where? ", ["Paris", "Rome"]) == "Where?\n\nA) Paris\nB) Rome"
    assert with_choices("Where?", []) == "Where?"
    assert [letter_of(i) for i in (-1, 0, 25, 26)] == [None, "A", "Z", None]


PIECES = st.lists(
    st.sampled_from(
        [
            "A",
            "b",
            "C",
            "#### ",
            "\\boxed{",
            "}",
            "(",
            ")",
            "answer is ",
            "the answer is ",
            "not ",
            "if ",
            " - ",
            "\n",
            " ",
            ".",
            "or ",
            "Paris",
            "**",
            "$",
            "\\text{",
            "ß",
            "~~",
            "<answer>",
            "</answer>",
            "</s>",
            " because ",
            " is right",
            " is wrong",
            "Actually, ",
            "\u212a",
        ]
    )
    | st.text(max_size=6),
    max_size=40,
).map("".join)


@settings(deadline=None)
@given(PIECES, st.lists(st.text(max_size=8), max_size=30))
def test_no_text_is_an_error_and_what_is_read_stays(text: str, choices: list[str]) -> None:
    for choice in (CITIES, Choice(tuple(choices))):
        for found in (choice.extract(text), choice.read(text), choice.read_gold(text)):
            assert found is None or choice.read(found) == choice.read_gold(found) == found


@pytest.mark.parametrize(
    "text",
    [
        r"<think>\boxed{A}</think>" + "\nThe answer is B",
        "<think>The answer is A.</think>\nB",
        "It is A.</think>\n#### B",
    ],
)
def test_what_was_only_thought_is_no_choice(text: str) -> None:
    assert Choice().extract(text) == "B"


def test_a_choice_longer_than_an_answer_is_known_by_its_letter() -> None:
    choices = Choice(("x" * 10_000, "Paris"))
    assert choices.extract("#### " + "x" * 399) is None
    assert choices.extract("#### A") == "A"
    assert choices.extract("#### Paris") == "B"
