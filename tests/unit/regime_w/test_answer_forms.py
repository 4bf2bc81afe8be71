"""Forms in which answers and gold answers come: right ones are read, near misses are not."""

import pytest

from regime_w import answers_agree, extract_answer, extract_gold

BRACES = [
    # As reported.
    (r"#### \boxed{\frac{1}{2}}", "0.5"),
    (r"#### $\boxed{14{,}916}$", "14916"),
    (r"#### \boxed{15 \text{ cm}^{2}}", "15"),
    (r"#### \text{1{,}300}", "1300"),
    (r"\fbox{42} after 3 steps", "42"),
    (r"\boxed {42} after 3 steps", "42"),
    (r"#### \frac3{4}", "0.75"),
    (r"#### \frac{3}4", "0.75"),
    (r"So \boxed{\frac3{4}} of it", "0.75"),
    # Neighbours that are right.
    (r"#### $\boxed{\textbf{-\frac{3}{4}}}$", "-0.75"),
    (r"#### \boxed{2\frac{1}{2} \text{ m}^{3}}", "2.5"),
    (r"#### \text{\$1{,}300{,}000}", "1300000"),
    (r"\fbox{17}, no: \boxed{18}, in 3 steps", "18"),
    (r"\boxed{17}, no: \fbox{18}, in 3 steps", "18"),
    (r"#### \dfrac{\text{3}}{4}", "0.75"),
    (r"#### \boxed{1.5 \times 10^{3}}", "1500"),
    (r"#### \boxed{\mathbf{\boxed{18}}}", "18"),
    # Neighbours that are not one number.
    (r"#### \boxed{\frac{1}{0}}", None),
    (r"#### \boxed{2^{10}}", None),
    (r"#### \boxed{10^{3}5}", None),
    (r"#### \frac123", None),
    (r"#### \frac{1}{2}3", None),
    (r"#### \frac{1}{-2}", None),
    (r"#### \boxed{\frac{x}{2}}", None),
    (r"#### \boxed{\frac{\sqrt{3}}{2}}", None),
    (r"#### \boxed{18, 26}", None),
    (r"#### \boxed{1{,}2}", None),
    (r"#### \text{1{,}30}", None),
    (r"#### " + r"\text{" * 7 + "18" + "}" * 7, None),
    (r"\fbox{18 or 26}", None),
    (r"The answer is 26. \boxed {18", None),
    (r"\mbox{42} after 3 steps", "3"),
]
HEADINGS = [
    # As reported.
    ("#### Final Answer\n42", "42"),
    ("#### Answer\n42", "42"),
    ("#### Solution\n\\boxed{42}", "42"),
    ("#### Step 2\n9 + 9 = 18\nThe final answer is $\\boxed{7}$", "7"),
    # Neighbours that are right.
    ("#### **Final Answer:**\n\n$42$ apples\n\nThat took 3 steps.", "42"),
    ("#### The final answer is:\n42", "42"),
    ("#### Result\nThe answer is 42.", "42"),
    ("#### Answer\nHe adds 3 and 4:\n\\boxed{7}", "7"),
    ("#### Answer\n18 or 26\n\\boxed{18}", "18"),
    ("#### Solution\n42", "42"),
    ("#### Solution\n9 eggs and 9 more.\nThe answer is 18. It took 3 steps.", "18"),
    ("#### Step 2: subtract 3\nThe answer is 15. It took 2 steps.", "15"),
    ("#### 2. Subtract\n18 - 3 = 15\n**Answer: 15**", "15"),
    ("#### Check the total\nThe answer is 15, as 18 - 3 = 15.", "15"),
    ("#### Step 1\n\\boxed{17}\n#### Final Answer\n18", "18"),
    # Neighbours that are none, or another.
    ("#### Final Answer\n18 or 26", None),
    ("#### Answer\n42 and 43", None),
    ("#### Answer", None),
    ("#### Answer\n\n", None),
    ("#### Solution\n16 eggs a day\nShe eats 3.", None),
    ("#### Step 2\n42", None),
    ("#### Step 2\n9 + 9 = 18", None),
    ("The answer is 17.\n#### Step 2\nThe total is 18", None),
    ("\\boxed{17}\n#### Final Answer\nHe has some.", None),
    ("#### 18\n#### Explanation\n9 + 9", None),
    ("#### 18 or 26\n\\boxed{18}", None),
    ("#### 18. That is all\n3", None),
    ("#### Final Answer: 18\n42", "18"),
    ("#### 18 apples\n42", "18"),
    ("End with '#### Final Answer\n42'", None),
]
SENTENCES = [
    # As reported.
    ("**Answer: 18.** I used 3 steps.", "18"),
    ("The answer is $18.$ It took 3 steps.", "18"),
    ('The answer is "18." It took 3 steps.', "18"),
    ('"18."', "18"),
    ("The answer is x = 18. That took 3 steps.", "18"),
    ("The answer is $x = 18$. Check: 18 - 3 = 15.", "18"),
    # Neighbours that are right.
    ("(The answer is 18.) It took 3 steps.", "18"),
    ("**The final answer is $18.50.**\nI used 3 steps.", "18.5"),
    ("_Answer: **18!**_ In 3 steps.", "18"),
    ("<b>The answer is 18.</b> It took 3 steps.", "18"),
    (r"The answer is \(18.\) It took 3 steps.", "18"),
    ("The answer is “18.” It took 3 steps.", "18"),
    ("The answer is that x = y = 18. That took 3 steps.", "18"),
    (r"The answer is $x_{1} = 18.$ That took 3 steps.", "18"),
    ("The answer is total = 18. That took 3 steps.", "18"),
    ("The answer is x = 9 + 9 = 18. That took 3 steps.", "18"),
    # Neighbours that are none, or another.
    ("**Answer: 18 or 26.** I used 3 steps.", None),
    ("The answer is x = 18 or x = 26. That took 3 steps.", None),
    ("The answer is x = 9 * 2. That took 3 steps.", None),
    ("The answer is x > 18. That took 3 steps.", None),
    ("The answer is 18.5.", "18.5"),
    ("The answer is 18.3* So", "18.3"),
    ("The answer is easy: let x = 4, so 5x = 20", "20"),
    ("The answer is clear since x = 4 gives 20", "20"),
]
OTHER_NUMBERS = [
    # As reported: none, or their value.
    ("#### 2 thirds", None),
    ("#### 3 quarters", None),
    ("#### 5 squared", None),
    ("#### 4 factorial", None),
    ("#### 25 lakh", "2500000"),
    ("It is 12:00", None),
    ("It is 1:00", None),
    ("It is 3:30", None),
    ("That is $204_5$", None),
    # Their neighbours.
    ("#### 2-thirds of a cup", None),
    ("#### 1 third", None),
    ("#### 1 quarter of it", None),
    ("#### 7 hundredths", None),
    ("#### 5 cubed", None),
    ("#### 5 to the third power", None),
    ("#### 18 doubled", None),
    ("#### 3 hundred thousand", None),
    ("#### 3 bn", None),
    ("#### 2 hours fourteen minutes", None),
    ("#### 3 millions", "3000000"),
    ("#### 2.5 crores", "25000000"),
    ("The answer is 2 thirds.", None),
    ("She ate 2 thirds.", None),
    ("It makes 25 lakh rupees", "2500000"),
    ("It is 2^{10}", None),
    ("It is 5² then", None),
    (r"It is 2\sqrt{3}", None),
    (r"It is \sqrt{3}", None),
    ("It is √16", None),
    ("It is the square root of 16", None),
    (r"It is 2\pi", None),
    ("It is negative 5", None),
    ("It is $204_{5}$", None),
    ("It is 3/4/2024", None),
    ("It is 0,5", None),
    ("It is 5'10", None),
    ("It is 2x", None),
    ("It is 18k", None),
    ("At 10 am", None),
    # Right ones, which they resemble.
    ("#### 18 third graders", "18"),
    ("#### 18 quarter-pound burgers", "18"),
    ("#### 18 cm squared", "18"),
    ("#### 18 square feet", "18"),
    ("#### 18 factories", "18"),
    ("#### 18 thirsty horses", "18"),
    ("She has 18 third graders.", "18"),
    ("She has 18 M&Ms", "18"),
    ("She has 18 one-dollar bills", "18"),
    ("At 12:00 she has 18.", "18"),
    ("Total:18", "18"),
    ("The ratio is 3:2, so 18.", "18"),
    (r"It is 18^{\circ}", "18"),
    (r"The area is 18 \text{ cm}^{2}", "18"),
    (r"She has 18 of x_{12}", "18"),
    ("10^2 = 100 and 9 + 9 is 18 and so on", "18"),
]
GOLDS = [
    # As reported.
    ("12:00", None),
    ("(1, 2)", None),
    (r"2\sqrt{3}", None),
    ("3-5", None),
    ("5 or 6", None),
    ("2^{10}", None),
    ("[0,1)", None),
    ("x^2+2x+1", None),
    ("2 hours 30 minutes", None),
    # Their neighbours.
    ("", None),
    ("  \n", None),
    ("none", None),
    ("She has 18", None),
    ("12\n18", None),
    ("9 + 9 is easy.\nThe answer is 18.", None),
    ("2 thirds", None),
    ("#### 5 or 6", None),
    ("18\n####", None),
    (r"\boxed{(1, 2)}", None),
    (r"\boxed{17} or \boxed{18}", None),
    (r"18, as \boxed{", None),
    # Right ones.
    ("18", "18"),
    (" -18.50\n", "-18.5"),
    ("$1,018.00", "1018"),
    ("1/3", "1/3"),
    (r"$\frac{1}{2}$", "0.5"),
    ("18 dollars", "18"),
    ("50%", "50"),
    ("x = 18", "18"),
    ("The answer is 18.", "18"),
    ("9 * 2 = <<9*2=18>>18\n#### 18", "18"),
    (r"So 3 + 4 = 7, which gives \boxed{7} in 1 step.", "7"),
    (r"\boxed{7.0}, again \fbox{7}", "7"),
]


@pytest.mark.parametrize(
    ("text", "answer"), [*BRACES, *HEADINGS, *SENTENCES, *OTHER_NUMBERS], ids=repr
)
def test_answers(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(("text", "gold"), GOLDS, ids=repr)
def test_golds(text: str, gold: str | None) -> None:
    assert extract_gold(text) == gold


def test_two_clock_times_do_not_agree() -> None:
    assert not answers_agree(extract_answer("It is 12:00"), extract_answer("It is 1:00"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["!", "18"])
@pytest.mark.parametrize(
    "unit", [r"\frac{1}", r"\text {", "^{2", "x = ", "$x_{1}=", ".*", "_{", "third "]
)
def test_hostile_markup_ends(unit: str, end: str) -> None:
    for _ in range(50):
        extract_answer("#### " + (unit * 300)[:290] + end)
        extract_answer("The answer is " + (unit * 300)[:290] + end)
        extract_gold((unit * 300)[:290] + end)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit", ["\n", "#### Answer\n", r"\boxed {", r"\fbox  ", "#### Step 1\n", "answer is x ="]
)
def test_long_texts_of_new_forms_end(unit: str) -> None:
    text = unit * (300_000 // len(unit))
    extract_answer("#### Answer" + text)
    extract_gold(text)
