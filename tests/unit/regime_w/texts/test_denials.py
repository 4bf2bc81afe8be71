"""Claims, denials and suppositions of an answer, and numbers of prose that are none."""

import pytest

from regime_w import extract_answer

STATEMENTS = [
    # As reported, behind the right answer and alone.
    ("The answer is 18. The wrong answer is 20.", "18"),
    ("The answer is 18. If the answer was 20, she would have 3 left.", "18"),
    ("The answer is 18. The answer would be 20 if", None),
    ("The answer is 18. An incorrect answer is 20.", "18"),
    ("The wrong answer is 20", None),
    ("If the answer was 20", None),
    ("The answer is not 18.", None),
    ("the answer would be 20 if", None),
    ("an incorrect answer is 20", None),
    ("It is between 18 and 20.", None),
    ("The answer is 17.8, so she needs 18 buses.", None),
    # Neighbours.
    ("The answer isn't 18.", None),
    ("The answer is never 18.", None),
    ("The answer is 20. No, the answer is not 20.", None),
    ("The answer is 20. No, the answer is not 20. It is 18.", "18"),
    ("The answer is 18. The answer is not 20.", "18"),
    ("The answer is 18. The answer is not 20, as some say.", "18"),
    ("The answer is 18. The wrong answer is hard to see.", "18"),
    ("The answer is 18 or 26. The wrong answer is 20.", None),
    ("The answer is clear. The wrong answer is 20.", None),
    ("You might think the answer is 20.", None),
    ("Some students say that the final answer is 20.", None),
    ("Suppose the correct answer is 20.", None),
    ("It is wrong to say that the answer is 20.", None),
    ("The answer is not 18. It is 26.", "26"),
    ("I think the answer is 18. It took 3 steps.", "18"),
    ("If she sells 3, the answer is 18. I used 2 steps.", "18"),
    ("That was wrong. The answer is 18. I used 2 steps.", "18"),
    ("The answer is 17.8, which rounds to 18.", None),
    ("The answer is 17.8 (rounded to 18).", None),
    ("The answer is 17.8, therefore 18 buses.", None),
    ("The answer is 18, so she has 18 eggs.", "18"),
    ("The answer is 18, so she has some left.", "18"),
    ("The answer is 18, as 9 + 9 = 18 and 2 is even.", "18"),
    ("The wrong answer is " * 30 + "20", None),
]
PROSE = [
    # As reported.
    ("So option 2.", None),
    ("x=3, y=4.", None),
    ("Result: 18 (out of 20)", "18"),
    ("#### Final Answer\nIt is impossible because 3 is odd.", None),
    # Neighbours: steps and options.
    ("So it is choice 2.", None),
    ("See Step 2", None),
    ("This is problem #3.", None),
    ("It is option (2).", None),
    ("In question no. 3", None),
    ("In step 2 she has 18.", "18"),
    ("The steps are 18 in all", "18"),
    # Two values.
    ("So x = 3; y = 4", None),
    ("So x = 3 and y = -4.", None),
    ("a = 3.5 & b = 4", None),
    ("x = 3, so y = 4.", "4"),
    ("x = 3, x + 1 = 4.", "4"),
    # What a number is compared with.
    ("She got 18 (of 20).", "18"),
    ("She has 18 eggs (not 20).", "18"),
    ("It costs $18.50 (instead of $20).", "18.5"),
    ("It is 50% (because 9 of 18 are left).", "50"),
    ("She got 18 out of 20.", None),
    ("She got 18 eggs out of 20.", None),
    ("Her total (of 20)", "20"),
    ("It is x1 (of 20)", None),
    ("She has 9 eggs (18 in all).", "18"),
    ("She has 9 eggs (so 18 in all).", "18"),
    # Denied, or one of several.
    ("It is not 18.", None),
    ("She does not have 18.", None),
    ("She doesn't have 18.", None),
    ("She has 18 instead of 20.", None),
    ("So 18 is wrong.", None),
    ("So 18 isn't right.", None),
    ("So 18 is not the final answer.", None),
    ("So 24 - 6 = 18 trees are not pines.", "18"),
    ("So 18 were not sold.", "18"),
    ("So x = 3 or 4.", None),
    ("She saved 210 / 350 = 0.60 or 60%.", "60"),
    ("This is $30 + $160 or $190", "190"),
    ("She needs 30 * 6 = 180 rings, or 180 years", "180"),
    ("She has 18 or 20.", None),
    ("She has 18 eggs or 20.", None),
    ("She has 18, or maybe 20.", None),
    ("It takes 3 to 5 days.", None),
    ("It is impossible, since 3 is odd.", None),
    ("There is no solution, as 3 is odd.", None),
    ("It cannot be determined from 3 values.", None),
    ("She did not sell any, so she has 18.", "18"),
    ("It is not 17 but 18.", "18"),
    ("Not only that: 18.", "18"),
    ("It is impossible to buy half a bus, so 18.", "18"),
    ("The number cannot be negative, so 18.", "18"),
    ("It is not hard. She has 18.", "18"),
    ("She is right and has 18.", "18"),
    ("For her or for him 18.", "18"),
    # Under a heading.
    ("#### Final Answer\nNo, since 3 is odd.", None),
    ("#### Final Answer\n3 is too few.", None),
    ("#### Final Answer\nShe needs 3 eggs for it.", "3"),
    ("#### Final Answer\nHe has 3 eggs left.", "3"),
    ("#### Final Answer\nThe total comes to 18 eggs.", "18"),
]

WITHDRAWN: list[tuple[str, str | None]] = [
    *(
        (f"The answer is 18{rest}", None)
        for rest in (
            ", I mean 20.",
            ", wait, 20.",
            ", no, 20.",
            ", actually 20.",
            "; sorry, 20.",
            " (correction: 20).",
            " (should be 20).",
            ". No, it's 20.",
            ". Correction: 20.",
            ". Sorry, I meant 20.",
            ". No wait, 20.",
            ". Oops, I forgot 2. So 20.",
            ". Wait, that's wrong. It should be 20.",
            ", and 20 for Bob.",
            ", as well as 20.",
            ", alternatively 20.",
            ", in thousands.",
            " (in thousands).",
            " (million dollars).",
            ", squared.",
            ", times 2.",
            ", modulo 20.",
            ", in base 9.",
            ", up to a sign.",
        )
    ),
    *(
        (f"The answer is 18{rest}", "18")
        for rest in (
            ". Wait, let me check: 9 * 2 = 18.",
            ". No further steps are needed.",
            ". Sorry for the long text.",
            ", and that is all.",
            ", i.e. 18 eggs.",
            " (no remainder).",
            ". I used 3 steps.",
            ", as 9 * 2 = 18.",
        )
    ),
]


@pytest.mark.parametrize(("text", "answer"), [*STATEMENTS, *PROSE, *WITHDRAWN], ids=repr)
def test_answers(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["", "20", " answer is 20"])
@pytest.mark.parametrize(
    "unit",
    ["wrong ", "if the ", "not ", "the wrong answer is ", "answer is 20 ", "x=3,", "(of 3 ", "3 or ", "between 3 and ", "no way "],
)  # fmt: skip
def test_long_texts_of_denials_end(unit: str, end: str) -> None:
    extract_answer(unit * (300_000 // len(unit)) + end)
