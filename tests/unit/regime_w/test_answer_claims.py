"""Which number a text claims: equations, headings, remarks behind the answer, and golds of other kinds."""

import pytest

from regime_w import extract_answer, extract_gold

SIGNS = [
    # As reported.
    ("The answer is minus 5.", "-5"),
    ("#### Final Answer\n- 42", "42"),
    # Neighbours.
    ("#### minus 5", "-5"),
    ("#### negative $5", "-5"),
    ("#### x = minus 5", "-5"),
    ("The answer is negative 5 degrees. I used 3 steps.", "-5"),
    ("#### Final Answer\n-42", "-42"),
    ("#### Final Answer\n− 42", "-42"),
    ("#### Final Answer\n-$42", "-42"),
    ("#### Final Answer\n* 42 apples", "42"),
    ("#### Final Answer\n• 42", "42"),
    ("####\n- 42", "42"),
    ("The answer is:\n- 42\nThat took 3 steps", "42"),
    ("#### - 42", "-42"),
    ("#### Final Answer\n- 42\n- 43", None),
    ("#### 9 minus 5", None),
    ("#### total minus 5", None),
    ("#### minus -5", None),
    ("#### minus five", None),
    ("The answer is minus five. I used 3 steps.", None),
    ("It is minus 5", None),
]
EQUATIONS = [
    # As reported.
    *(
        (f"{mark}{line}", None)
        for mark in ("", "#### ", "The answer is ")
        for line in ("3x = 18", "-x = 18", "1/x = 18", "$x^2 = 18$")
    ),
    ("$a+b = 18$. 3", None),
    # Neighbours that give the unknown no value.
    ("#### 3 x = 18", None),
    ("#### 2(x + 1) = 18", None),
    ("#### (x)(y) = 18", None),
    ("#### xy = 18", None),
    ("#### x² = 18", None),
    ("#### |x| = 18", None),
    ("#### x! = 24", None),
    (r"#### \sqrt{x} = 18", None),
    (r"#### \frac{x}{2} = 18", None),
    (r"#### 2\theta = 18", None),
    (r"#### \sin x = 1", None),
    ("#### √x = 18", None),
    ("#### half of x = 18", None),
    ("#### twice the width = 18", None),
    ("#### 20% of x = 18", None),
    ("#### x plus 2 = 20", None),
    ("#### 1/total = 18", None),
    ("#### 2 * width = 18", None),
    ("#### 3x = 9 * 2 = 18", None),
    ("#### x_1 + x_2 = 18", None),
    (r"So \boxed{3x = 18}.", None),
    ("So we get\n3x = 18", None),
    ("She solves\nx = 4y\nand 3y = 18", None),
    (r"3x = \frac{1}{3}", None),
    # Neighbours that are values.
    ("#### x = 9 + 9 = 18", "18"),
    ("#### A = l * w = 18", "18"),
    ("#### y = 3x = 18", "18"),
    ("#### So x = 18", "18"),
    ("#### 3x = 54 so x = 18", "18"),
    ("#### value of x = 18", "18"),
    ("#### x_1 = 18", "18"),
    ("#### x1 = 18", "18"),
    (r"#### \theta = 18", "18"),
    (r"#### \bar{x} = 18", "18"),
    ("#### x-coordinate = 18", "18"),
    ("#### total_cost = 18", "18"),
    ("#### Total (in dollars) = 18", "18"),
    ("#### f(3) = 18", "18"),
    ("#### plan B = 18", "18"),
    ("#### cost of a pen = 18", "18"),
    ("#### Speed in km/h = 18", "18"),
    ("#### 9 eggs x $2 = $18", "18"),
    ("#### 3x6 = 18", "18"),
    ("#### 3(6) = 18", "18"),
    (r"#### \sqrt{324} = 18", "18"),
    ("#### 20% of 90 = 18", "18"),
    ("#### half of 36 = 18", "18"),
    ("#### 5 apples a day * 3 = 15", "15"),
    ("#### 60 km/h * 3 h = 180 km", "180"),
    ("#### $5/h * 3 h = $15", "15"),
    ("#### 18-year-old pupils + 3 = 18", "18"),
    ("x = 4\n5x = 20", "20"),
    ("Let x = 4, so 5x = 20", "20"),
    ("Total = 9 * 2 = 18", "18"),
    ("She makes 9 * 2 = 18", "18"),
    ("- 9 * 2 = 18", "18"),
    ("= 18", "18"),
    ("900 ml / 15 ml/g = 60 g", "60"),
    ("1000 + 10X = 1,100 if X = 10", "10"),
]
PARTS = [
    # As reported.
    (r"\boxed{4!}", None),
    ("$5!$", None),
    # Neighbours.
    (r"#### $5!$", None),
    (r"#### \(5!\)", None),
    ("#### Answer\n$$\n5!\n$$", None),
    ("The answer is $5!$. I used 3", None),
    (r"So \boxed{5!}, by 3", None),
    ("The answer is $5!$ as I used 3", None),
    ("The answer is $18$! It took 3 steps", "18"),
    ("#### $5! = 120$", "120"),
    ("The answer is 18!", "18"),
    ("The answer is 5! = 120.", "120"),
    ("The answer is $5! = 120$.", "120"),
    ("So the answer is 4! = 24 ways.", "24"),
    ("The answer is 4! × 2 = 48", "48"),
    ("The answer is 4! * 2 = 48", "48"),
    ("The answer is 4! * 2", None),
    ("The answer is *18!* It took 3 steps", "18"),
    ("The answer is **18!** 3 steps", "18"),
    ("The answer is 18! - in 3 steps", "18"),
    ("The answer is 18! = great", "18"),
    ("The answer is 18! * (see above)", "18"),
    ("(The answer is 18!) It took 3 steps.", "18"),
    ("#### **18!**", "18"),
    ("#### 3i", None),
    ("#### 3a", None),
    ("So it is 3i.", None),
    ("18 = 3a", None),
    ("See 3b.", None),
    ("#### 18m", "18"),
    ("#### 50p", "50"),
    ("So 18 g.", "18"),
    # A line break ends a number.
    ("She has 5\n180", "180"),
    ("She has 1\n1/2", "0.5"),
]
HEADINGS = [
    # As reported.
    ("#### 3 Steps to the answer\n18", None),
    ("#### Final Answer\n\n$$\n42\n$$", "42"),
    ("#### Final Answer\n\n\\[\n18\n\\]", "18"),
    ("#### Final Answer\nShe has 42 apples left.", "42"),
    ("#### Final Answer\n> 42", "42"),
    ("#### 3. Final Answer\n18", "18"),
    ("#### Step 3: Final Answer\n18", "18"),
    ("#### Final Answer (in dollars)\n42", "42"),
    ("#### Answer ✅\n42", "42"),
    ("#### 42 ####", "42"),
    (r"#### \frac{14{,}916}{2}", "7458"),
    ("**Final Answer**\n18\nIt took 3 steps", "18"),
    # Neighbours that are right.
    ("#### 2 ways of finding the solution\nSo \\boxed{18}.", "18"),
    ("#### 3 steps to the top", "3"),
    ("#### Final Answer\n$$\nx = 9 * 2\n= 18\n$$\nin 3 steps", "18"),
    ("#### Final Answer\n```text\n18\n```", "18"),
    ("#### Solution\n$$\n18\n$$", "18"),
    ("####\n\\[\n18\n\\]", "18"),
    ("The answer is:\n$$\n18\n$$\nIt took 3 steps", "18"),
    ("#### Final Answer\n42 apples are left. It took 3 steps.", "42"),
    ("#### Final Answer\nHe drives at 42 km/h.", "42"),
    ("#### Answer\nThen 77.", None),
    ("#### final_answer\nThen 77.", None),
    ("#### Final Answer\nWe get 9 * 2 = 18 apples\n", "18"),
    ("#### Final Answer\n> - 42", "42"),
    ("#### Part 2 - Answer\n18", "18"),
    ("#### Step 3: the final answer is:\n18", "18"),
    ("#### Answer to the question\n18", "18"),
    ("#### Answer to problem 3\n18", "18"),
    ("#### ✅ Final Answer: 42", "42"),
    ("#### 42 ✅", "42"),
    ("##### 42 #####", "42"),
    ("#### Final Answer ####\n42", "42"),
    (r"#### \frac{14,\!916}{2}", "7458"),
    (r"#### \frac{14\,916}{1{,}000}", "14.916"),
    ("#### 14,916/2", "7458"),
    ("So it is 1,000/3", "1000/3"),
    ("### Final Answer\n18\n\nI made 3 checks of it", "18"),
    ("Final answer\n18\n\nAsk me if you want 3 more", "18"),
    ("**Final Answer**\n\n\\[\n18\n\\]\nIt has 3 parts", "18"),
    # Neighbours that are none, or another.
    ("#### Answer (42)", "42"),
    ("#### Answer\nShe has 16 eggs.\nShe eats 3 of them", None),
    ("#### Final Answer\nShe has 42 or 43 apples.", None),
    ("#### Final Answer\nShe has 42 apples and one pear.", None),
    ("#### Final Answer\nShe has 3 * x apples", None),
    ("#### Final Answer\nShe has twice 42 apples", None),
    ("#### Final Answer\nShe has 3x = 42", None),
    ("#### Final Answer\nAt 12:00", None),
    ("#### Final Answer\nAt 10 am she left", None),
    ("#### Final Answer\nIt makes 2 thirds.", None),
    ("#### Final Answer\nShe has " + "many " * 70 + "42", None),
    ("#### Final Answer\n>42", None),
    ("#### Final Answer\n$$\n42", None),
    (r"#### \frac{14,91}{2}", None),
    ("\\boxed{18} ####", None),
    ("In the format '#### 42 ####", None),
    ("**Final Answer**\nShe has some.\nSo 18", "18"),
]
REMARKS = [
    # As reported.
    ("approximately 18. took 3", "18"),
    ("therefore 18. It took 3 steps.", "18"),
    ("equal to 18. ... 3", None),
    ("eighteen (18). 3", None),
    ("«18.» ... 3", None),
    (r"The answer is $\sqrt{9}$. I used 5", None),
    ("The answer is:\n\n18\n\nChecked 3 times", "18"),
    ("<answer>18</answer> took 3", "18"),
    # Neighbours.
    ("So she has 18 eggs left. I used 3 steps.", "18"),
    ("She has 9 + 9 = $18.00!\n\nThis was checked 2 times.", "18"),
    ("It equals (18). 18", "18"),
    ("The answer is simply 18. It took 3 steps.", "18"),
    ("The answer is eighteen. I used 3 steps.", None),
    ("The answer is about 18. It has 3 parts.", None),
    (r"The answer is \(\frac{\sqrt{3}}{2}\). It has 5 parts.", None),
    ("The answer is √9. It has 5 parts.", None),
    ("<answer>17</answer> no, <answer>\n$18\n</answer> in 3", "18"),
    (r"<answer>So \boxed{18}</answer> in 3", "18"),
    (r"\boxed{17} <answer>18</answer> in 3", "18"),
    ("<answer>18 or 26</answer> in 3", None),
    ("<answer>I do not know</answer> in 3", None),
    ("I write it in <answer> tags: 18", "18"),
    # What resembles them is the answer.
    ("16 - 3 = 13. After baking 4 she has 9.", "9"),
    ("He drove 180 miles at 60 mph. So it took 3 hours.", "3"),
    ("They are 180 miles. It took 3 hours.", "3"),
    ("12 - 7 = 5 pens. I used 7 pens.", "7"),
    ("9 + 9 = 18\n18 - 3 is left:\n15", "15"),
    ("That is (9 + 9). 18", "18"),
    ("It took 3", "3"),
    ("The answer is half of 36, which is 18", "18"),
    ("The answer is $x$, and x = 18", "18"),
    ("The answer is not 18. It is 26", "26"),
]
GOLDS = [
    # As reported.
    ("3i", None),
    ("5!", None),
    (r"\boxed{5!}", None),
    ("2 dozen", None),
    ("5 May", None),
    ("5th", None),
    # Neighbours.
    ("$5!$", None),
    ("#### 2 dozen", None),
    ("#### Answer\n5th", None),
    (r"\boxed{5\text{th}}", None),
    ("3 gross", None),
    ("5 Sept.", None),
    ("1st", None),
    ("22-nd", None),
    ("5 apples", "5"),
    ("5 thousand", "5000"),
    ("5 marbles", "5"),
    ("5 scores", None),
    (r"\boxed{5}" * 100, "5"),
    (r"\boxed{5}" * 101, None),
]


@pytest.mark.parametrize(
    ("text", "answer"), [*SIGNS, *EQUATIONS, *PARTS, *HEADINGS, *REMARKS], ids=repr
)
def test_answers(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(("text", "gold"), GOLDS, ids=repr)
def test_golds(text: str, gold: str | None) -> None:
    assert extract_gold(text) == gold


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["!", " = 18", " 3"])
@pytest.mark.parametrize(
    "unit",
    ["x + ", "x = ", "(ab ", "a-", "half ", "so ", "*", "> ", "- ", "1,000/", "18. ", "took it "],
)
def test_hostile_claims_end(unit: str, end: str) -> None:
    for _ in range(20):
        line = (unit * 300)[:290] + end
        for before in ("#### ", "", "#### Final Answer\n", "The answer is ", "18. It "):
            extract_answer(before + line)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    [r"\boxed{7}", r"\boxed{7.%d}", "<answer>", "<answer>7</answer>", "Final Answer\n", "= 18. It took 3 steps. ", "#", "#### 1 ", "**"],
)  # fmt: skip
def test_long_texts_of_claims_end(unit: str) -> None:
    text = unit * (600_000 // len(unit))
    extract_answer(text)
    extract_gold(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>\boxed{20}</think>" + "\n\nThe answer is 18.", "18"),
        ("<think>The answer is 20.</think>\n\nShe makes 18 dollars.", "18"),
        ("<think>the answer is 20</think>18", "18"),
        ("#### 20\n</think>\n#### 18", "18"),
        ("<think>It is 20.</think>", None),
        # Cut off within a thought.
        ("<think>It is 20.", None),
        ("<think>9 * 2 = 18. Wait, let me double check whether", None),
        ("<think>\n#### 18\nHm, or", None),
        ("#### 18\n<think>Was that right? 20", "18"),
        ("<think>\n\n</think>\n\n#### 18", "18"),
        ("#### 18 <think>was that right? #### 20", "18"),
        ("Well: <think>\n9 * 2 = 18", None),
    ],
)
def test_what_was_only_thought_is_no_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer
