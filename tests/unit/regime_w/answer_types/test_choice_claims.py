"""Choices: what announces one, what takes it back, and what names several."""

import pytest

from regime_w.answer_types.choice import Choice

CITIES = Choice(("Paris", "London", "Rome", "It will not rain"))
POINTS = Choice(("North", "South", "East", "West"))
OPEN = Choice()

ANNOUNCED = [
    ("Therefore, B is the correct answer.", "B"),
    ("It rains.\nSo, in conclusion: (B) is my answer.", "B"),
    ("I would choose B.", "B"),
    ("Hence I pick option B.", "B"),
    ("So I", None),
    ("Therefore B and C.", None),
    # Another letter that is denied.
    ("The answer is B and not C.", "B"),
    ("The answer is B, not (C).", "B"),
    ("#### B rather than option A", "B"),
    ("A and B, not C", None),
    # With its text.
    ("The answer is London (B).", "B"),
    ("#### London [b].", "B"),
    ("The answer is B, London.", "B"),
    ("B, London", "B"),
    ("B, Paris", None),
    ("The answer is B, Paris.", None),
    ("The answer is Paris (B).", None),
    ("The answer is B, C.", None),
    ("The answer is b, c", None),
    ("#### b, c, d", None),
    ("The answer is b) and c)", None),
    ("\\boxed{b - c}", None),
    ("#### B, all of them", None),
    ("The answer is B, a trap.", None),
    ("The answer is anything except London (B).", None),
    ("The answer is the letter after (B).", None),
    # What may go on.
    ("So A", None),
    ("Therefore, a", None),
    ("So I pick a.", None),
    ("So B.", "B"),
    ("The answer is B, or C.", None),
    ("B is the answer.", "B"),
    ("**B** is the answer!", "B"),
    ("(B) is my final answer", "B"),
    ("It rains.\nOption B is the correct answer.", "B"),
    ("B is not the answer.", None),
    ("Is B the answer?", None),
    ("A is an answer.", None),
    ("A is the question.", None),
    ("A is the answer or B is.", None),
    # A text in brackets.
    ("B (London)", "B"),
    ("**B** (London).", "B"),
    ("#### B (the capital)", "B"),
    ("B (Paris)", None),
    ("B (the capital)", None),
    ("A (big) city", None),
    ("#### B (not London)", None),
    ("#### B (or C)", None),
    # Below what announces it.
    ("The answer is:\n\nB", "B"),
    ("Answer:\n\n\n**B**", "B"),
    ("Answer:\n\n(B) London", "B"),
    ("**Answer:**\n\n> B", "B"),
    ("The answer is:\n- B", "B"),
    ("**Answer**\n\nB) London\n\nIt is in England.", "B"),
    ("## Final Answer\n\nB\n\nIt is in England.", "B"),
    ("The answer is:\n\n- A\n- B", None),
    ("The answer is:\n\nIt depends.", None),
    ("The answer is:\n\nNot B", None),
    ("The answer is:\n\n", None),
    ("### Answers\nB\nIt is.", None),
    # In an element.
    ("<answer>B</answer>", "B"),
    ("<think>A</think><answer>B</answer>\nBye.", "B"),
    ("<answer>\nB\n</answer>", "B"),
    ("I use <answer></answer>.\n<answer>B</answer>", "B"),
    ("<answer>A</answer> or <answer>B</answer>", None),
    ("<answer>A or B</answer>", None),
    ("<answer></answer>", None),
    ("It is not <answer>A</answer>", None),
    # Before the end of the turn.
    ("The answer is B<|im_end|>", "B"),
    ("B</s>", "B"),
    ("#### B<eos>", "B"),
    ("B<|endoftext|>\nThe answer is C.", "B"),
    ("#### B<|eot_id|>\n<|start_header_id|>user\nC?", "B"),
    ("</s>", None),
    # Marks.
    ("The answer is B。", "B"),
    ("The answer is B。It is London.", "B"),
    ("The answer is ‘B’.", "B"),
    ("'A'", "A"),
    ("A'", None),
    ("#### A’", None),
    # Of another alphabet, as which a letter is read where case is ignored.
    ("#### \u212a", None),
]
TAKEN_BACK = [
    ("The answer is A. Actually, B.", None),
    ("Answer: A\n\nActually, B.", None),
    ("The answer is A.\nA is wrong, though.", None),
    ("The answer is A. (A) is incorrect.", None),
    ("The answer is A. Paris is wrong.", None),
    ("The answer is A\nNo, it's London.", None),
    ("The answer is A. I was wrong, it's B.", None),
    ("The answer is A\n\nScratch that: B.", None),
    ("The answer is Paris. Wait, that is wrong.", None),
    ("The answer is Paris. On second thought, B", None),
    ("\\boxed{A}. Wait, it is B.", None),
    ("\\boxed{A} is wrong.", None),
    ("The answer is A. Wait, that's wrong. The answer is B.", "B"),
    ("The answer is Paris. London is wrong, though.", "A"),
    ("The answer is A\n\nB is wrong, and C is wrong.", "A"),
    ("The answer is A. Actually, that is the capital of France.", "A"),
    ("The answer is Paris. No other choice is right.", "A"),
    ("The answer is Paris. No city is bigger.", "A"),
    ("The answer is A. Hmm, let me check. Yes, A.", "A"),
    ("The answer is Paris. It is actually the capital.", "A"),
    ("\\boxed{B} since A is wrong.", "B"),
    ("#### A\nActually, B.", "A"),
    # Struck out.
    ("~~A~~", None),
    ("The answer is ~~A~~", None),
    ("It is <s>A</s>", None),
    ("<s>A</s>", "A"),
    ("<strike>A</strike>", None),
    ("The answer is ~~A~~ B", "B"),
    ("<del>A</del> B", "B"),
    ("#### ~~A~~ **B**", "B"),
    # By the reason.
    ("A because B is the right one", None),
    ("#### A because B is the right one", None),
    ("#### B because A is the right one", None),
    ("#### A because London is the right one", None),
    ("#### A, because actually B is right", None),
    ("#### A, since I was wrong, B.", None),
    ("#### A because A is the right one", "A"),
    ("#### A because B is not right", "A"),
    ("#### A because B is in England", "A"),
    ("#### A because C, D and B are wrong", "A"),
    ("#### A since it is neither C nor D", "A"),
    ("#### B because A is a trap", "B"),
    ("#### B because E is no choice", "B"),
]
SEVERAL = [
    ("\\boxed{A} or \\boxed{B}", None),
    ("\\boxed{A} and \\boxed{B}", None),
    ("$\\boxed{A}$, $\\boxed{B}$", None),
    ("\\boxed{A} or \\boxed{(A)}", "A"),
    ("\\boxed{A}, so \\boxed{A}", "A"),
    ("\\boxed{A}. Wait, no: \\boxed{B}", "B"),
    ("\\boxed{A} is wrong, thus \\boxed{B}", "B"),
    ("\\boxed{A}\n\\boxed{B}", "B"),
    # A list of the choices.
    ("(A) Paris\n(B) London", None),
    ("A) Paris\n\nB) London\n\nC) Rome", None),
    ("A\nB", None),
    ("The answer is:\nA) Paris\nB) London", None),
    ("The answer is: A) Paris\nB) London\nC) Rome", None),
    ("Answer:\nA\nB\nC", None),
    ("#### A) Paris\nB) London", None),
    ("#### Final Answer\nA) Paris\nB) London", None),
    ("The answer is A.\nB) London is in England.", "A"),
    ("The answer is A) Paris\nB) is wrong.", "A"),
    ("The answer is A) Paris.\n\nB) London", "A"),
    ("The answer is C.\n\nA) Paris\nB) London", "C"),
    ("The answer is D) It will not rain\nA) Paris", "D"),
    ("Paris\nA", "A"),
    # A label may only name what is looked at.
    ("Choice: A) North is false", None),
    ("Choice: A) the capital", None),
    ("Choice: A", "A"),
    ("Option: B) London", "B"),
    ("The correct choice: A) the capital", "A"),
]


def test_a_choice_that_is_a_sentence_of_letters_is_itself() -> None:
    kind = Choice(("A and B", "A and not B", "B and not A", "A, not B"))
    assert kind.extract("The answer is A and not B.") == "B"
    assert kind.extract("#### B and not A") == "C"
    assert kind.extract("The answer is A, not B.") == "D"


@pytest.mark.parametrize("line", ["Hence x is true", "Therefore P must be true", "In summary, x"])
def test_a_conclusion_about_a_variable_is_no_choice(line: str) -> None:
    assert OPEN.extract(line) is None


@pytest.mark.parametrize(("text", "letter"), ANNOUNCED)
def test_what_announces_a_choice(text: str, letter: str | None) -> None:
    assert CITIES.extract(text) == letter


@pytest.mark.parametrize(("text", "letter"), TAKEN_BACK)
def test_what_takes_a_choice_back(text: str, letter: str | None) -> None:
    assert CITIES.extract(text) == letter


@pytest.mark.parametrize(("text", "letter"), SEVERAL)
def test_several_choices_are_none(text: str, letter: str | None) -> None:
    assert CITIES.extract(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Choice: A) North is false", None),
        ("The answer is A) North is false", None),
        ("#### A. South is false", None),
        ("#### A) North is true", "A"),
        ("#### A) North, the others are false", "A"),
    ],
)
def test_a_choice_that_is_called_false_is_none(text: str, letter: str | None) -> None:
    assert POINTS.extract(text) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        # I is a pronoun, and "E. coli" no choice.
        ("I.", None),
        ("I", None),
        ("(I)", "I"),
        ("#### I", "I"),
        ("The answer is I.", "I"),
        ("J.", "J"),
        ("B. London", None),
        ("E. coli", None),
        ("A (big) city", None),
        ("B) London", "B"),
        ("**(B) London**", "B"),
        ("B (London)", "B"),
        ("(A) Paris\n(B) London", None),
        ("A) is false", None),
        ("A) or B)", None),
        ("Choice: A) North is false", None),
        ("#### B) The statement is false", "B"),
        ("The answer is A. Actually, it's London.", None),
        ("The answer is A\nActually, it's London.", None),
        ("The answer is A\nHmm. Yes, A.", "A"),
        ("Thinking.\nB is the answer.", "B"),
    ],
)
def test_without_texts_a_letter_must_be_one(text: str, letter: str | None) -> None:
    assert OPEN.extract(text) == letter


@pytest.mark.parametrize(
    ("choices", "text", "letter"),
    [
        ("xyz", "y", "B"),
        ("xyz", "#### y.", "B"),
        ("xyz", "\\boxed{z}", "C"),
        ("xyz", "A", "A"),
        ("xyz", "B) y", "B"),
        ("xyz", "w", None),
        ("xyz", "B) x", None),
        ("xyz", "x or y", None),
        ("xyz", "The answer is y\nActually, z.", None),
        # A letter that there is is always a letter, whatever another choice's text.
        ("BA", "A", "A"),
        ("BA", "(A)", "A"),
        ("BA", "A) B", "A"),
        ("BA", "#### B (A)", "B"),
        ("BA", "A) A", None),
        ("OABZ", "O", "A"),
        ("OABZ", "B", "B"),
        ("OABZ", "C) B", "C"),
        ("1234", "1", "A"),
        ("1234", "#### 4", "D"),
        ("1234", "0", None),
        ("1234", "B) 3", None),
        ("1234", "#### A because 5 - 4 = 1", "A"),
    ],
)
def test_choices_of_one_character(choices: str, text: str, letter: str | None) -> None:
    assert Choice(tuple(choices)).extract(text) == letter


@pytest.mark.parametrize(
    ("choices", "gold", "is_ambiguous"),
    [
        ("BA", "A", True),
        ("BA", "b.", True),
        ("BA", "It follows.\n#### A", True),
        ("BA", "A) B", False),
        ("BA", "C", False),
        ("AB", "A", False),
        ("OABZ", "A", True),
        ("OABZ", "D", False),
        ("OABZ", "O", False),
        ("1234", "1", False),
    ],
)
def test_a_gold_letter_that_is_another_choices_text(
    choices: str, gold: str, is_ambiguous: bool
) -> None:
    assert Choice(tuple(choices)).is_ambiguous(gold) is is_ambiguous


@pytest.mark.parametrize("answer", ["~~A~~", "A because B is the right one", "A'"])
def test_an_answer_that_stands_alone_may_be_none(answer: str) -> None:
    assert CITIES.read(answer) is None


def test_a_choice_of_marks_alone_is_never_mentioned() -> None:
    assert Choice(("...", "Paris")).extract("#### B because it goes on ... and on") == "B"
