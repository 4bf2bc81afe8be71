"""Answers that a text takes back behind the place where it states them, and first tries that it tells of."""

import pytest

from regime_w import extract_answer

RETRACTIONS = [
    # None, for what is not one number.
    (r"\boxed{18}, I mean 20", None),
    (r"\boxed{18} (should be 20)", None),
    ("The answer is 18, make that 20", None),
    ("The answer is 17.6, i.e. 18", None),
    (r"$\boxed{18}$. No, it's 20.", None),
    ("\\boxed{18}\n\nWait, I made an error. The answer is 20.", None),
    (r"\boxed{18} or rather 20", None),
    (r"\boxed{18}. Correction: 20", None),
    ("<answer>18</answer> I mean 20", None),
    ("The answer is 18. Make that 20.", None),
    ("The answer is 18. Actually, it is 20.", None),
    ("The answer is 18. I mean 20.", None),
    ("The answer is 18. No, it's 20, not 18.", None),
    ("The answer is 18. That is wrong.", None),
    (r"\boxed{18}. That's wrong.", None),
    (r"\boxed{18}, no, 20", None),
    ("The answer is 18, or rather 20.", None),
    ("#### 18 (should be 20)", None),
    ("The answer is 18, scratch that, 20", None),
    (r"\boxed{18}. The correct answer is 20.", None),
    ("The answer is 18. The above is wrong.", None),
    (r"\boxed{18}. The answer should be 20.", None),
    # Of a "####" its own line decides.
    ("#### 18\nActually the answer is 20", "18"),
    ("####\n18\nSorry, I meant 20.", "18"),
    ("#### Final Answer\n18\nActually, 20.", "18"),
    ("#### 18\n\nScratch that, 20.", "18"),
    ("#### 18\nOn second thought, 20.", "18"),
    ("#### 18\nHmm, that is wrong.", "18"),
    ("#### 18\nI made a mistake: it is 20.", "18"),
    ("#### 18\nThe correct answer is 20.", "18"),
    ("#### 18\nEdit: 20", "18"),
    ("#### 18\nThis answer is wrong.", "18"),
    # Neighbours that are read.
    (r"\boxed{18} is what I thought, but it is wrong", "18"),
    ("#### 18\nThis is incorrect if 2 eggs break.", "18"),
    (r"\boxed{18}, i.e. 18 eggs", "18"),
    (r"\boxed{0.5}, i.e. 50%", "0.5"),
    ("The answer is 0.5, i.e. 50%.", "0.5"),
    (r"\boxed{18}. Wait, let me check: 9 * 2 = 18.", "18"),
    (r"\boxed{18}. No further steps are needed. It took 3 steps.", "18"),
    ("#### 18\nThe answer is 26", "18"),
    ("#### 18\nActually, 9 + 9 is 18.", "18"),
    ("#### 18\nSorry for the length. It took 3 steps.", "18"),
    (r"\boxed{18} and it took 3 steps", "18"),
    (r"\boxed{18}, so 2 are left", "18"),
    ("#### 18\nNo more than 3 steps were needed.", "18"),
    ("#### 18\n\nQ: Bob has 3 eggs.", "18"),
    (r"\boxed{18}. Rather easy: 3 steps.", "18"),
    ("The answer is 18. Waiting takes 3 days.", "18"),
    ("The answer is 18. Actually, 9 * 2 = 18.", "18"),
    (r"\boxed{18} should be right", "18"),
    (r"\boxed{18}. Let me check it. 9 + 9 = 18.", "18"),
    (r"\boxed{20}. Wait, it is \boxed{18}.", "18"),
    ("#### 20\nWait.\n#### 18", "18"),
    ("The answer is 20. No, wait. The answer is 18.", "18"),
    (r"I mean \boxed{18}.", "18"),
    ("#### 18\nThat is right.", "18"),
    ("#### 18\nThat is not hard.", "18"),
    (r"\boxed{18}. The correct answer is 18, made in 3 steps.", "18"),
    ("#### 18\nThe correct answer is shown above.", "18"),
    ("#### 18\nThis answer is right.", "18"),
    ("#### 18\nEditing took 3 hours.", "18"),
]

FIRST_TRIES = [
    # None, for what is not one number.
    ("She makes 18 dollars. I first got 20, which is wrong.", None),
    ("I first got 20, which is wrong.", None),
    ("It is 18. 20 would be wrong.", None),
    ("It is 18. 20 is a common mistake.", None),
    ("It is 18. My first answer of 20 was wrong.", None),
    ("It is 18, although I first got 20.", None),
    ("It is 18. I had 20 before, but this is not right.", None),
    ("She ate 18, which was wrong of her.", None),
    # Neighbours that are read.
    ("So 9 + 9 = 18. I first got 20, which is wrong.", "18"),
    ("She has 18. I first got 20, which is wrong.", "18"),
    ("So it is 18.\nAt first I got 20, but that is wrong.", "18"),
    ("It is 18. I initially wrote 20.", "18"),
    ("It is 18. I mistakenly got 20.", "18"),
    ("It is 18. I first got 20, which was incorrect.", "18"),
    ("It is 18. I first got 20 (which is wrong).", "18"),
    ("It is 18. At first I thought it was 20.", "18"),
    ("It is 18. It is wrong to say 20.", "18"),
    ("I first got 20, which is wrong. It is 18.", "18"),
    ("I first got 20, which is wrong; so 18", "18"),
    ("She first got 18.", "18"),
    ("She initially had 18.", "18"),
    ("So she first had 20 and now 18.", "18"),
    ("I got 18, which is right.", "18"),
    ("I got 18, which is not hard.", "18"),
    ("She has 18, which is too few.", "18"),
    ("First, I got 18.", "18"),
    ("I first got 9, then 18.", "18"),
    ("It was wrong. She has 18.", "18"),
]


@pytest.mark.parametrize(("text", "answer"), [*RETRACTIONS, *FIRST_TRIES], ids=repr)
def test_answers(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["", "20"])
@pytest.mark.parametrize(
    "unit",
    [
        "no, ",
        "wait ",
        "I first got ",
        "at first I ",
        "wrong ",
        "that is ",
        "i.e. ",
        ", I mean ",
        "actually 20. ",
        "which is wrong ",
    ],
)
def test_long_texts_end(unit: str, end: str) -> None:
    # Quadratic work on these would not end within the timeout.
    extract_answer(unit * (100_000 // len(unit)) + end)
    for before in ("#### 18 ", "#### 18\n", r"\boxed{18} ", "The answer is 18 ", "The answer is "):
        extract_answer(before + unit * (3_000 // len(unit)) + end)
