"""What an "answer is" claims: one number, something that is not a number, or nothing yet."""

import pytest

from regime_w import extract_answer

CLAIMS = [
    # None, for what is not one number.
    ("The answer is x ≥ 18.", None),
    ("The answer is > 18", None),
    ("The answer is ±18", None),
    ("The answer is n+1. We have 3.", None),
    ("The answer is π/2. We have 3", None),
    ("The answer is half of 18", None),
    ("The answer is twice 9", None),
    ("The answer is yes, since 18 > 2", None),
    ("The answer is unknown. We have 18.", None),
    ("The answer is May 5th", None),
    ("The answer is x > 18. That took 3 steps.", None),
    (r"The answer is $x \ge 18$.", None),
    ("The answer is x <= 18", None),
    ("The answer is +/- 18", None),
    ("The answer is $n+1$. So 3", None),
    ("The answer is 2n. So 3", None),
    ("The answer is a/2, with 3.", None),
    ("The answer is undefined. It took 3 steps.", None),
    ("The answer is infinite, 3 steps", None),
    ("The answer is no. She has 18.", None),
    ("The answer is the square root of 18.", None),
    ("The answer is a third of 18", None),
    ("The answer is double 9.", None),
    ("The answer is between 17 and 19.", None),
    ("The answer is either 17 or 19.", None),
    ("The answer is up to 18.", None),
    ("The answer is impossible, since 3 is odd.", None),
    ("The answer is on Monday, 5 May.", None),
    ("The answer is the 5th of May", None),
    ("The answer is -x. So 3.", None),
    ("The answer is √2. So 3", None),
    (r"The answer is \sqrt{2}. So 3", None),
    ("The answer is sin(30).", None),
    ("The answer is log 5.", None),
    ("The answer is null. 3", None),
    ("The answer is none. 3", None),
    ("The answer is N/A, as 3 is odd.", None),
    ("The answer is x^2 + 2. 3", None),
    ("The answer is 3x + 2.", None),
    ("The answer is more than 18.", None),
    ("The answer is the sum of 9 and 8.", None),
    (r"The answer is $\pi$. So 3", None),
    ("The answer is x = y + 2", None),
    ("The answer is x/2. So 3.", None),
    ("The answer is ∞. 3", None),
    ("The answer is true, as 18 > 2", None),
    ("The answer is y ∈ [0, 3]", None),
    ("The answer is one of 3 and 5", None),
    ("The answer is both 3 and 5", None),
    ("The answer is Bob: 18, Ann: 20", None),
    ("The answer is -(-5)", None),
    ("The answer is |-5|", None),
    # Neighbours that are read.
    ("The answer is half of 36, which is 18", "18"),
    ("The answer is easy to see: she has 4, so 18", "18"),
    ("The answer is clear. So 18", "18"),
    ("The answer is as follows. 9 + 9 = 18", "18"),
    ("The answer is twice 9 = 18.", "18"),
    ("The answer is a sum: 9 + 9 = 18", "18"),
    ("The answer is the sum of 9 and 9, that is 18.", "18"),
    ("The answer is unknown at first: let it be x. Then x = 18.", "18"),
    ("The answer is no secret: 18", "18"),
    ("The answer is none other than 18.", "18"),
    ("The answer is found by adding 9 and 9. So 18.", "18"),
    ("The answer is a number. It is 18.", "18"),
    ("The answer is I think 18.", "18"),
    ("The answer is x. And x = 18", "18"),
    ("The answer is $x$, and x = 18", "18"),
    ("The answer is truly easy. 18", "18"),
    ("The answer is Mayra's 18", "18"),
    ("The answer is clear from step 2. So she has 18.", "18"),
    ("The answer is what we found, 18.", "18"),
    ("The answer is -18.", "-18"),
    ("The answer is +18.", "18"),
    ("The answer is the sum. 9 + 9 = 18", "18"),
    ("The answer is a-okay: 18", "18"),
    ("The answer is n = 18. We have 3.", "18"),
    ("The answer is Bob: 18.", "18"),
    ("The answer is 18, note: it took 3 steps.", "18"),
    ("The answer is one more than 17, so 18", "18"),
    ("The answer is (-5).", "-5"),
]

FIELDS = [
    # None, for what is not one number.
    ('{"answer": null, "confidence": 0.9}', None),
    ('{"answer": "eighteen", "confidence": 0.9}', None),
    ('{"answer": [18, 20], "confidence": 0.9}', None),
    ('{"result": 18, "confidence": 0.9}', None),
    ('{"answer": {"value": 18, "unit": "m"}, "confidence": 0.9}', None),
    ('{"answer": "", "confidence": 0.9}', None),
    ('{"answer": "18 or 20", "confidence": 0.9}', None),
    ('{"solution": 18, "confidence": 0.9}', None),
    # Neighbours that are read.
    ('{"answer": 18, "confidence": 0.9}', "18"),
    ('{"answer": "18", "confidence": 0.9}', "18"),
    ("{'answer': 18, 'confidence': 0.9}", "18"),
    ('{"final_answer": 18, "steps": 3}', "18"),
    ('{"answer": 18.5,\n "confidence": 0.9}', "18.5"),
    ('{"confidence": 0.9, "answer": 18}', "18"),
    ('```json\n{"answer": "$1,018", "confidence": 0.9}\n```', "1018"),
    ('{"answer": -18, "confidence": 0.9}', "-18"),
    ('{"answer":18,"confidence":0.9}', "18"),
    ('{\n  "reasoning": "9 + 9",\n  "answer": 18,\n  "confidence": 0.9\n}', "18"),
    ('{"Answer": 18, "explanation": "9 + 9 = 18, in 3 steps"}', "18"),
    ('{"cost": 18}', "18"),
    ('{"confidence": 0.9, "result": 18}', "18"),
]


@pytest.mark.parametrize(("text", "answer"), [*CLAIMS, *FIELDS], ids=repr)
def test_answers(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["", "20"])
@pytest.mark.parametrize(
    "unit",
    [
        '"answer": ',
        '"answer": "',
        '"a": 3, ',
        "half of ",
        "x + ",
        "May 5 ",
        "the sum of ",
        "-x ",
        "> ",
        "\\\\" + '"',
    ],
)
def test_long_texts_end(unit: str, end: str) -> None:
    # Quadratic work on these would not end within the timeout.
    extract_answer(unit * (100_000 // len(unit)) + end)
    for before in ("#### 18 ", "#### 18\n", r"\boxed{18} ", "The answer is 18 ", "The answer is "):
        extract_answer(before + unit * (3_000 // len(unit)) + end)
