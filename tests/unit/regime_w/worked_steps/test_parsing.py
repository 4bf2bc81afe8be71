"""Equations in worked solutions: what is read, and what is left alone."""

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_w import extract_answer
from regime_w.reasoning import path_scores, read_path
from regime_w.worked_steps.parsing import MAX_EQUATIONS, parse_equations

GSM8K = os.environ.get("REGIME_W_GSM8K_DIR")
STEP = "12 + 7 = 19"

# (text, operands as written, result, whether it holds)
ONE = [
    ("12 + 7 = 19", [12, 7], 19, True),
    ("12+7=18", [12, 7], 18, False),
    ("He has 12 + 7 = 19 pens left.", [12, 7], 19, True),
    ("5 apples * 2 dollars/apple = 10 dollars", [5, 2], 10, True),
    ("$5/hour * 3 hours = $15", [5, 3], 15, True),
    ("$1,000 / 4 = $250.", [1000, 4], 250, True),
    ("4 + 4 = <<4+4=9>>8", [4, 4], 8, True),
    ("(3 + 4) * 2 = 14", [3, 4, 2], 14, True),
    ("[3 + 4] * 2 = 14", [3, 4, 2], 14, True),
    ("2(3+4) = 14", [2, 3, 4], 14, True),
    ("(1+2)(3+4) = 21", [1, 2, 3, 4], 21, True),
    ("x = 3*4 = 12", [3, 4], 12, True),
    ("total = 3*4 = 12", [3, 4], 12, True),
    ("- 40 + 2 = 42", [40, 2], 42, True),
    ("-3 + 5 = 2", [-3, 5], 2, True),
    ("5 -3 = 2", [5, 3], 2, True),
    ("5 * -3 = -15", [5, -3], -15, True),
    ("40 − 12 = 28", [40, 12], 28, True),
    ("15 kg × 3 = 45 kg", [15, 3], 45, True),
    ("30 cans x 16 = 480", [30, 16], 480, True),
    ("3x4 = 12", [3, 4], 12, True),
    ("3 times 4 = 12", [3, 4], 12, True),
    ("12 divided by 4 = 3", [12, 4], 3, True),
    ("4 times/minute * 10 minutes = 40 times", [4, 10], 40, True),
    (r"$\frac{1}{2} \times 10 = 5$", [1, 2, 10], 5, True),
    (r"2\frac{1}{2} \times 2 = 5", [2, 1, 2, 2], 5, True),
    (r"$1 \dfrac{1}{2} + 2\tfrac{1}{2} = 4$", [1, 1, 2, 2, 1, 2], 4, True),
    (r"5 / 2 = 2\frac{1}{2}", [5, 2], 2.5, True),
    (r"3 \times \frac{1}{3} = 1", [3, 1, 3], 1, True),
    (r"\(3 + 4 = \boxed{7}\)", [3, 4], 7, True),
    (r"2 \cdot 3 = 6", [2, 3], 6, True),
    (r"6 \div 3 = 2", [6, 3], 2, True),
    ("**2 + 3 = 5**", [2, 3], 5, True),
    ("1/2 of 10 = 5", [1, 2, 10], 5, True),
    ("20% of 50 = 10", [20, 50], 10, True),
    ("2 + 2 1/2 = 4.5", [2, 2, 1, 2], 4.5, True),
    ("1/5 = 20%", [1, 5], 20, True),
    ("5/25*100 = 20%", [5, 25, 100], 20, True),
    ("1/5 = 21%", [1, 5], 21, False),
    ("10 / 3 = 3.33", [10, 3], 3.33, True),
    ("2 / 3 = 0.67", [2, 3], 0.67, True),
    ("2 / 3 = 0.66", [2, 3], 0.66, False),
    ("10 / 3 = 3.3", [10, 3], 3.3, False),
    ("7 / 2 = 3", [7, 2], 3, False),
    ("0.1 + 0.2 = 0.3", [0.1, 0.2], 0.3, True),
    ("3 * 4 = 10 + 2", [3, 4], 12, True),
    ("3 * 4 = (10 + 2)", [3, 4], 12, True),
    ("3 * 4 = 10 + 3", [3, 4], 10, False),
    ("1 = 1 + 0 = 1", [1, 0], 1, True),
    ("(so 3 + 4 = 7)(", [3, 4], 7, True),
    ("He paid 2 * 3 = 6 a day", [2, 3], 6, True),
    ("60 miles/hour * 2 hours = 120 miles", [60, 2], 120, True),
    ("60 minutes / 20 minutes/lap = 3 laps", [60, 20], 3, True),
    ("$12.50 * 2 = $25.00", [12.5, 2], 25, True),
    (r"\$5 + \$3 = \$8", [5, 3], 8, True),
    (r"\text{total} = 5 + 3 = 8", [5, 3], 8, True),
    (r"5 \text{ apples} + 3 = 8", [5, 3], 8, True),
    ("* 40 + 2 = 42", [40, 2], 42, True),
    ("1. 40 + 2 = 42", [40, 2], 42, True),
    ("1) 40 + 2 = 42", [40, 2], 42, True),
    ("Step 1: 40 + 2 = 42", [40, 2], 42, True),
    ("10 - 5 - 3 = 2", [10, 5, 3], 2, True),
    ("3 - 5 = -2", [3, 5], -2, True),
    ("3 - -4 = 7", [3, -4], 7, True),
    ("3(4) = 12", [3, 4], 12, True),
    ("2 + 3 * 4 = 14", [2, 3, 4], 14, True),
    ("2 + 3 * 4 = 20", [2, 3, 4], 20, False),
    ("5 + 3 = 8.0", [5, 3], 8, True),
    ("2 + 3 = 5.5*2", [2, 3], 5.5, False),
    ("1/3 + 1/3 = 2/3", [1, 3, 1, 3], "2/3", True),
    ("10 / 4 = 2 1/2", [10, 4], 2.5, True),
    ("1½ * 2 = 3", [1, 1, 2, 2], 3, True),
    ("５ ＋ ３ ＝ ８", [5, 3], 8, True),
    ("10% + 5% = 15%", [10, 5], 15, True),
    ("2/3 = 66.67%", [2, 3], 66.67, True),
    ("50% * 10 = 5", [50, 10], 5, True),
    ("1 / 8 = 0.13", [1, 8], 0.13, True),  # a half may be rounded up
    ("1 / 8 = 0.12", [1, 8], 0.12, True),  # or down
    ("1 / 8 = 0.11", [1, 8], 0.11, False),
    ("10 / 3 = 3.334", [10, 3], 3.334, False),
    ("10 / 3 = 3.333...", [10, 3], 3.333, True),
]


@pytest.mark.parametrize(("text", "operands", "result", "holds"), ONE)
def test_one_equation(text: str, operands: list[float], result: float, holds: bool) -> None:
    (equation,) = parse_equations(text)
    assert equation.operands == tuple(Fraction(str(value)) for value in operands)
    assert equation.result == Fraction(str(result))
    assert equation.holds is holds


NONE = [
    "", "=", "==", "1 = 1", "x = 5", "5 = x", "2x + 3 = 11", "x + 3 = 11", "3 + 4 = 7x", "3 + n = 7", "3 + 4 is 7", "3 + 4 =", "= 7",
    "3 + 4 = seven", "3 + = 7", "3 + 4\n= 7", "a) 3) + 4) = 7", "1/0 = 1", "no numbers = at all",
    "9" * 300 + " + 1 = 2", "5 + 3 = " + "9" * 300, "f(x) = 3", "5! = 120", "2^3 = 8", "2 + 3 != 6", "2 + 3 >= 4", "2 + 3 ≈ 5", "3 * x = 6",
    "half of 10 = 5", "<<3+4=7>>", "6 = 2 * 3", "2 + (3 = 5", "12 / 0 = 12", "3 + 4: = 7", "4 + 4? Yes = 8",
    # A side that is read in part would be judged as if that were all.
    "3² + 4² = 25", "2^3 * 5 = 40", "2^3 * 5 = 15", "2**3 * 5 = 40", "2 ** 3 * 5 = 15", "√16 + 2 = 6", "√16 + 2 = 18", "(2+3)^2 + 5 = 30",
    "5! + 3 * 2 = 6", "2 * 5! + 3 * 2 = 6", "2 + 5! - 3 = 119", "\\sqrt{16} + 2 * 3 = 10", "2^{3} + 2 * 3 = 6", "-(3 - 5) = 2", "3 * -(2 + 1) = -9", "±2 + 3 = 5", "3 * 4 = 2^3",
    "3 * 4 = 12²", "3 * 4 = 6√4", "9:15 + 45 minutes = 10:00", "1,5 + 2 = 3,5", "3.33... * 3 = 9.99",
    "(5) = 5", "(5) = 6", "-(5) = -5",  # nothing is computed
]  # fmt: skip


@pytest.mark.parametrize("text", NONE)
def test_nothing_to_read(text: str) -> None:
    assert parse_equations(text) == ()


# Of these only a part may be read, so what is read may be right but is not called wrong.
IN_PART = [
    ("$2 million + $500,000 = $2,500,000", "5 million + 3 million = 8 million"), ("2 dozen - 4 = 20", "3 dozen * 12 = 36"),
    ("500 * 3 = 1.5 thousand", "5 * 3 = 15 thousand"), ("$1 / 2 = 50 cents", "25 * 2 = 50 cents"), ("2L + 8 = 22", "2L + 8L = 10L"), ("4s + 16 = 32", "4 s + 16 s = 20 s"),
    ("revenue - 3 * 4 = 8", "Total - 3 * 4 = 12"), ("x = a / 3 * 4 = 8", "= * 3 * 4 = 12"), ("Step 2 3 + 4 = 8", "Step 2 3 + 4 = 7"),
    ("2 teachers + his 1 aunt + 1 uncle = 4", "2 + his 1 aunt + 1 uncle = 2"), ("1 cup + 1 and 1/4 + 1/4 = 1.5", "3 and 1/4 + 1/4 = 1/2"),
    ("600 * 30 = 18 000", "6 * 3 = 18 000"), ("4 / 3 = 1 and 1/3", "4 / 4 = 1 and 1/3"),
    ("3 * 4 = 13!", "3 * 4 = 12!"), ("2 / 3 = 0.666...", "2 / 3 = 0.667..."), ("2 * 3 = 5 \\pm 1", "2 * 3 = 6 \\pm 1"),
    ("3 * 4 = 20 - discount", "3 * 4 = 12 - discount"),
]  # fmt: skip


@pytest.mark.parametrize(("ignored", "right"), IN_PART)
def test_what_is_read_in_part_is_not_called_wrong(ignored: str, right: str) -> None:
    assert parse_equations(ignored) == ()
    (equation,) = parse_equations(right)
    assert equation.holds


WRONG = [
    "- 3 + 4 = 8", "* 3 + 4 = 8", "- 4 apples + 4 apples = 9", "- Ann has 3 + 4 = 8 apples", "1. 3 + 4 = 8", "1) 3 + 4 = 8", "**3** + **4** = **8**",
    "3 + 4 = 8 \\\\", "\\textit{3 + 4 = 8}", "| 3 + 4 = 8 | 9 |", '"3 + 4 = 8"', "→3 + 4 = 8", "3 m² + 4 m² = 8 m²", "1,000,000 + 1 = 1,000,002",
    "3 * 2 = 13 letters a week", "5 x 5 = $32 for a haircut", "250 g * 4 = 900 g", "2 h + 3 h = 6 h", "20 L / 4 = 6 L", "5 m * 5 m = 30 m",
    "50 * 14 = $707 for 14 dozen pears", "30 + 30 = 67-minute break", "40 + 20 = 70 and 70 people", "8 acres x 3/4 = 5", "Step 1:5 + 3 = 9",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_stands_around_an_equation_does_not_excuse_it(text: str) -> None:
    (equation,) = parse_equations(text)
    assert not equation.holds


@pytest.mark.parametrize(
    "text",
    ["25 / 1/3 = 75", "6 km/ 1/30 hour = 180", "12 / 2 / 3 = 2", "72 x1/4 = 18", "72x 1/4 = 18"],
)
def test_fractions_and_factors_that_are_written_close(text: str) -> None:
    (equation,) = parse_equations(text)
    assert equation.holds


LATEX = [
    (r"12 \div 4 &= 3 \\", "12 / 4 = 3"),
    (r"20\% \times 200 &= 50", "20% * 200 = 50"),
    (r"3 \times \left(4+5\right) = 27", "3 * (4+5) = 27"),
    (r"3 \times \bigl(4+5\bigr) = 28", "3 * (4+5) = 28"),
    (r"1{,}000 + 500 = 1{,}500", "1,000 + 500 = 1,500"),
    (r"\frac{100 \text{ miles}}{4} = 25", "(100)/(4) = 25"),
    (r"{10} \times {5} = 50", "10 * 5 = 50"),
    (r"2\frac{1}{2} \times 10 = 25", "(2+1/2) * 10 = 25"),
    (r"3 + 4 = 7 \implies 7 \times 2 = 15", "3 + 4 = 7\n7 * 2 = 15"),
    (r"\begin{aligned} 3 + 4 &= 7 \\ 7 \times 2 &= 15 \end{aligned}", "3 + 4 = 7\n7 * 2 = 15"),
    (r"\left. 3 + 4 = 7 \right.", "3 + 4 = 7"),
    (r"3 + 4 = 8 \quad \text{apples}", "3 + 4 = 8 apples"),
]


@pytest.mark.parametrize(("latex", "plain"), LATEX)
def test_latex_is_read_as_plain_text_is(latex: str, plain: str) -> None:
    found = parse_equations(latex)
    assert found
    assert found == parse_equations(plain)


def test_chains_and_lines() -> None:
    found = parse_equations("5 * 2 = 10 / 2 = 5\n5 - 1 = 4 and 4 + 2 = 6; 6 - 6 = 0")
    assert [(e.result, e.holds) for e in found] == [
        (10, True), (5, True), (4, True), (6, True), (0, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2 + 3 = 5 + 1 = 6", [(5, True), (6, True)]),
        ("x = 3*4 = 12 = 12", [(12, True)]),
        ("3 + 4 = 7 = 8", [(7, True)]),  # the second has nothing to compute
        ("10 / 3 = 3.33 * 3 = 9.99", [(3.33, True), (9.99, True)]),
        ("5 * 2 = 11 / 2 = 5.5", [(11, False), (5.5, True)]),
        ("2+3=5. Then 5*2=10.", [(5, True), (10, True)]),
        ("2 + 3 = 5, 5 * 2 = 11", [(5, True), (11, False)]),
        ("1,000 + 1 = 1,001, 1,001 - 1 = 1,000", [(1001, True), (1000, True)]),
        ("40 + 20 = 70 and 70 / 2 = 35", [(70, False), (35, True)]),
        ("40 + 20 = 60 and 60/2 = 35", [(60, True), (35, False)]),
        ("Step 1:5+3=8\nDay 2:21-6=15\nWeek 1:600/2=300", [(8, True), (15, True), (300, True)]),
        ("- 1 + 1 = 2\n- 2 + 2 = 4\r\n- 4 + 4 = 9", [(2, True), (4, True), (9, False)]),
        ("3 + 4 = <<3+4=8>>7 and 7 * 2 = <<7*2=14>>14", [(7, True), (14, True)]),
    ],
)
def test_one_after_another(text: str, found: list[tuple[float, bool]]) -> None:
    equations = parse_equations(text)
    assert [(e.result, e.holds) for e in equations] == [
        (Fraction(str(result)), holds) for result, holds in found
    ]


def test_units_of_many_words_are_followed_only_so_far() -> None:
    assert parse_equations("100 leaves falling from each tree * 2 = 200")[0].holds
    assert parse_equations("100 " + "very " * 9 + "red leaves * 2 = 200") == ()


def test_no_more_than_so_many_are_read() -> None:
    assert len(parse_equations("1 + 1 = 2\n" * (MAX_EQUATIONS + 5))) == MAX_EQUATIONS


@given(
    st.text(st.sampled_from("0123456789+-*/()%., $x=\n ab<>{}\\frac")) | st.text(st.characters())
)
def test_no_text_raises(text: str) -> None:
    for equation in parse_equations(text):
        assert len(equation.operands) >= 1


@pytest.mark.parametrize(
    "text",
    ["=" * 100_000, "1=" * 50_000, "(" * 100_000 + "=1", "9" * 100_000 + "=1", "<<" * 50_000, "9 " * 50_000 + "=",
     "\\frac{" * 20_000, "a " * 50_000 + "= 1", "{" * 100_000, "1/" * 50_000 + "=", "\ud800\0=", "1 " + "/a" * 50_000,
     "<<1" * 33_000 + "=", "\\text{" * 16_000 + "=", "1\\frac{" * 15_000 + "=", "½" * 50_000 + "=", "＝" * 100_000, "1 1/" * 25_000 + "=",
     "1,111" * 20_000 + "=", "1% of " * 16_000 + "=", "1 x " * 25_000 + "=", "-" * 100_000 + "=1", ")(" * 50_000 + "=", "a-" * 50_000 + "=",
     "1" + " " * 100_000 + "=", ". A" * 30_000 + "=", "\ud800=1" * 25_000, "1+1\0=2" * 15_000, "1+1=3 " * 16_000, "a b c = " * 12_000,
     "1/3=0." + "3" * 100_000, "1..." * 25_000 + "=", "1:1" * 30_000 + "=", "1,1" * 30_000 + "=", "-(" * 50_000 + "=", "1 ** " * 20_000 + "=",
     "1" + "." * 100_000 + "=", "1! " * 30_000 + "=", "/ 1/1 " * 16_000 + "=", "\\left" * 20_000 + "=", "{,}" * 30_000 + "=", "{1" * 40_000 + "=", "\\begin{a" * 12_000 + "=",
     "\\\\" * 50_000 + "=", "&" * 100_000 + "=", "1 x" * 30_000 + "=", "1²" * 50_000 + "="],
)  # fmt: skip
def test_long_and_odd_texts_end(text: str) -> None:
    assert 0 <= read_path(text, "1").quality <= 1
    assert len(parse_equations(text)) <= MAX_EQUATIONS


HUGE = "9" * 5000  # int() refuses 4300 digits and more


@pytest.mark.parametrize(
    "text",
    [f"{HUGE} + 1 = 2", f"1 + {HUGE} = 2", f"1 + 0.{HUGE} = 2", f"({HUGE}) + 1 = 2", f"{HUGE}% * 2 = 1", f"-{HUGE} * 2 = 1",
     "1" + ",111" * 2000 + " + 1 = 2", f"1 + 1 = {HUGE}", f"1 + 1 = 0.{HUGE}", f"1 + 1 = -{HUGE}%"],
)  # fmt: skip
def test_numbers_too_long_for_int_are_not_read(text: str) -> None:
    assert parse_equations(text) == ()
    assert read_path(f"{STEP}\n{text}", "19").quality == 1  # nor do they harm what stands beside


@given(st.integers(0, 999), st.integers(1, 999), st.sampled_from("+-*/"), st.integers(-3, 3))
def test_truth_is_arithmetics(a: int, b: int, operator: str, error: int) -> None:
    value = {"+": Fraction(a + b), "-": Fraction(a - b), "*": Fraction(a * b), "/": Fraction(a, b)}
    stated = value[operator] + error
    if stated.denominator == 1:
        (equation,) = parse_equations(f"so {a} {operator} {b} = {stated}")
        assert equation.holds is (error == 0)
        assert equation.result == stated


@pytest.mark.skipif(not GSM8K, reason="needs REGIME_W_GSM8K_DIR")
def test_gold_solutions_parse_as_true_and_earn_their_path() -> None:
    text = (Path(str(GSM8K)) / "train.jsonl").read_text(encoding="utf-8")
    num_equations = num_true = num_high = num_paths = 0
    for record in map(json.loads, text.splitlines()):
        solution = record["answer"]
        equations = parse_equations(solution)
        num_equations += len(equations)
        num_true += sum(e.holds for e in equations)
        path = read_path(solution, extract_answer(solution))
        if path.num_equations:
            num_paths += 1
            scores = path_scores([path] * 8, ["w"] * 4 + ["m"] * 4)
            num_high += sum(scores) / 8 >= 0.9
    assert num_equations > 23_000
    assert num_true / num_equations >= 0.97
    # The rest are golds that are false, do not come to their answer, or work with variables.
    assert num_high / num_paths >= 0.96
