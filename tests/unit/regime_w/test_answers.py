"""Answer extraction: what is read, what is refused, and that no text breaks it."""

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_w import answers_agree, extract_answer

# What stands after "####" on its line.
READ = [
    ("18", "18"),
    ("-5", "-5"),
    ("18.00", "18"),
    ("1,080", "1080"),
    ("1/2", "0.5"),
    ("1/3", "1/3"),
    ("$18", "18"),
    ("$18.50", "18.5"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("- 5", "-5"),
    ("−5", "-5"),
    ("**18**", "18"),
    ("**$18**", "18"),
    ("$18$", "18"),
    (r"$\boxed{18}$", "18"),
    (r"\boxed{18}", "18"),
    (r"\(18\)", "18"),
    (r"\frac{1}{2}", "0.5"),
    (r"\frac12", "0.5"),
    (r"1\frac{1}{2}", "1.5"),
    (r"$\frac{3}{4}$", "0.75"),
    (r"-\frac{1}{2}", "-0.5"),
    ("18 dollars", "18"),
    ("18 dollars per day", "18"),
    ("18 miles/hour", "18"),
    ("18/day", "18"),
    ("18 km/h", "18"),
    ("18 cm^2", "18"),
    ("18 cm²", "18"),
    ("18 m^{2}", "18"),
    ("18cm", "18"),
    ("18 square feet.", "18"),
    ("50%", "50"),
    ("50 %", "50"),
    (r"50\%", "50"),
    ("50 percent", "50"),
    ("１８", "18"),
    ("ｘ＝１８", "18"),
    ("١٨", "18"),
    ("1 080", "1080"),
    ("1\u202f080", "1080"),
    ("18\u00a0cm", "18"),
    ("1'080", "1080"),
    ("1,080.50", "1080.5"),
    ("1,234,567", "1234567"),
    (r"1\,080", "1080"),
    ("1{,}080", "1080"),
    ("x = 18", "18"),
    ("$x = 18$", "18"),
    ("x=$18", "18"),
    ("= 18", "18"),
    ("3*6 = 18", "18"),
    ("3 * 6 = $18", "18"),
    ("So, 3*6 = 18", "18"),
    ("1.5e3", "1500"),
    ("1.5E+3", "1500"),
    ("1.5 x 10^3", "1500"),
    ("1.5 × 10^3", "1500"),
    ("1.5 × 10³", "1500"),
    (r"1.5 \times 10^{3}", "1500"),
    ("1.5*10^3", "1500"),
    ("2e-3", "0.002"),
    ("1 1/2", "1.5"),
    ("2 3/4 cups", "2.75"),
    ("1½", "1.5"),
    ("½", "0.5"),
    ("-1½", "-1.5"),
    (".5", "0.5"),
    ("18.", "18"),
    ("18,", "18"),
    ("+18", "18"),
    ("(18)", "18"),
    ("(18).", "18"),
    ('"18"', "18"),
    ("'18'", "18"),
    ("`18`", "18"),
    ("The answer is 18", "18"),
    ("The answer is $18.", "18"),
    ("Therefore, the final answer is 18 dollars.", "18"),
    ("Answer: 18", "18"),
    ("Final answer: **18**", "18"),
    ("The number of apples left is 18.", "18"),
    ("€18", "18"),
    ("18€", "18"),
    ("18 €", "18"),
    ("£1,080", "1080"),
    ("USD 18", "18"),
    ("18 USD", "18"),
    ("US$18", "18"),
    ("Rs. 18", "18"),
    ("₹18", "18"),
    ("3 million", "3000000"),
    ("$3 million", "3000000"),
    ("18°", "18"),
    ("18 °C", "18"),
    (r"18^\circ", "18"),
    ("90 degrees", "90"),
    ("007", "7"),
    ("0", "0"),
    ("-0", "0"),
    ("0.50", "0.5"),
    (r"18\text{ dollars}", "18"),
    (r"18 \text{ cm}^2", "18"),
    (r"\text{18 dollars}", "18"),
    (r"\textbf{18}", "18"),
    ("18 (dollars)", "18"),
    ("18<|endoftext|>", "18"),
    ("18</s>", "18"),
    ("<<9*2=18>>18", "18"),
    ("18!", "18"),
    ("18 is the answer", "18"),
    ("18 is the final answer.", "18"),
    ("7 dozen", "7"),
    ("18 hours", "18"),
    ("18-year-old", "18"),
    ("18 times", "18"),
    ("36/2", "18"),
    (r"$\$18$", "18"),
    (r"\$18", "18"),
    (r"\$1,080.00", "1080"),
    ("$ 18", "18"),
    ("18.0 kg", "18"),
    ("x = y = 18", "18"),
    ("18i think", "18"),
    ("17.9999", "17.9999"),
    ("1 080 000", "1080000"),
    ("$1.5 billion dollars", "1500000000"),
    ("- $5", "-5"),
    ("**Answer:** 18", "18"),
    ("18 **dollars**", "18"),
    ("__18__", "18"),
    ("*18*", "18"),
    ("_18_", "18"),
    (" 18 ", "18"),
    ("18\r", "18"),
    ("$18.00/hour", "18"),
    ("0.1", "0.1"),
    ("1.10", "1.1"),
    ("10 000", "10000"),
    ("1.5 * 10^3", "1500"),
    ("1.5 × 10⁻³", "0.0015"),
    ("1 1/2 cups", "1.5"),
    (r"Answer: $\frac{1}{2}$", "0.5"),
    ("#### 26", "26"),
    ("18 CM", "18"),
    ("18 U.S. dollars", "18"),
    ("18 students' books", "18"),
    ("3 shirts and 2 pants = $50", "50"),
    (r"$x = \boxed{18}$", "18"),
    (r"$\boxed{18\text{ dollars}}$", "18"),
    (": 18", "18"),
    ("final_answer: 18", "18"),
]
REFUSED = [
    "18 or 26",
    "18 and 26",
    "18, 26",
    "18,26",
    "3, 5",
    "3-5",
    "3–5",
    "3 - 5",
    "3 to 5",
    "12-7",
    "12 - 7",
    "3*6",
    "3 * 6",
    "3**2",
    "2^3",
    "9 + 9",
    "36 / 2",
    "10:30",
    "10:30 am",
    "10 am",
    "5 p.m.",
    "5 o'clock",
    "2 hours 30 minutes",
    "2 hours and 30 minutes",
    "2 hours thirty minutes",
    "5'10\"",
    "5 ft 10 in",
    "2 and a half",
    "nan",
    "NaN",
    "inf",
    "none",
    "final_answer",
    "<answer>",
    "[answer]",
    "answer",
    "18?",
    "~18",
    "≈ 18",
    "about 18",
    "approximately 18",
    "maybe 18",
    "not 18",
    "The answer is not 18",
    "It isn't 18",
    "at least 18",
    "18 at most",
    "> 18",
    "x > 18",
    "x >= 18",
    "x ≤ 18",
    "x != 18",
    "18 is wrong",
    "18 ± 1",
    "Step 3",
    "Step 3: done",
    "He buys 3 apples and sells 5",
    "There are 7 days in a week so I do not know",
    "x = 18 or x = 26",
    "x = 18, y = 26",
    "x = 18 and y = 26",
    "x = 9 * 2",
    "x",
    "x =",
    "1/0",
    "1/2/3",
    "3/4/2024",
    "1.2.3",
    "1,08",
    "1,2,3",
    "1,0800",
    "0,5",
    "3:2",
    "2x",
    "2 pi",
    r"2\pi",
    "2√3",
    "0.333...",
    "18...",
    "18²",
    "--5",
    "-$-5",
    "3 *600",
    "±5",
    "1e999999999",
    "1e-999999999",
    "5 6",
    "18 26",
    "18k",
    "5M",
    "①",
    "[18, 26]",
    "(3, 5)",
    "{3, 5}",
    "3; 5",
    "3/5/7",
    "18 (or 26)",
    "18, or 26",
    "half of 18",
    "twice 18",
    "18 minus 3",
    "18 remainder 3",
    "3 R 1",
    "2^{10}",
    r"\sqrt{18}",
    "eighteen",
    "1 million 200 thousand",
    "10 AM",
    "1.5 × 10⁻⁺³",
    "3 *6",
    "18 half",
    "0x12",
]

# Whole texts: which place decides.
PLACES = [
    ("#### 18", "18"),
    ("####18", "18"),
    ("##### 18", "18"),
    ("9 + 9 = 18\n#### 18\n", "18"),
    ("#### 17\nwait\n#### 18", "18"),
    ("#### 18\nThat is 3 more than 15.", "18"),
    ("#### 18\nThe answer is 26", "18"),
    (r"\boxed{26} #### 18", "18"),
    (r"#### 18 and then \boxed{26}", None),
    ("####\n18", "18"),
    ("####\r\n18\r\n", "18"),
    ("**####**\n18", "18"),
    ("####:\n18", "18"),
    ("####\n\n18", None),
    ("the answer is 18\n####", None),
    ("the answer is 18\n#### \n", None),
    (r"\boxed{18} ####", None),
    ("#### 18\n####", None),
    ("18 apples\n#### nan", None),
    ("The answer is 18.\n#### 18 or 26", None),
    ("#### 17\n#### 18 or 26", None),
    ("It is 18.\n#### final_answer", None),
    ("End with '#### final_answer'.", None),
    ("end with the final answer in the format '#### 42'.\n\nProblem:\n", None),
    ("#### 18\nAnswer in the format `#### 42`.", None),
    ("So I write '#### 18'", "18"),
    ("#### " + "because " * 60 + "18", None),
    (r"so \boxed{18}", "18"),
    (r"\boxed{17} no, \boxed{18}", "18"),
    (r"\boxed{\frac{1}{2}}, made of 3 parts", "0.5"),
    (r"\boxed{\text{18 km}} is 99", "18"),
    (r"\boxed{1{,}080}", "1080"),
    (r"The answer is 26 or \boxed{18 or 26}", None),
    (r"The answer is 26. \boxed{", None),
    (r"The answer is 26. \boxed{}", None),
    ("The answer is 18. I used 3 steps.", "18"),
    ("The answer is **$1,080**, found in 3 steps.", "1080"),
    ("**Answer:** 18\nChecked 2 times.", "18"),
    ("Answer:\n18\n\n(2 steps)", "18"),
    ("The answer is 18, since 9 * 2 = 18 and 3 + 4 = 7.", "18"),
    ("The answer is 18 because 9 * 2 = 18.", "18"),
    ("The answer is 3 + 4 = 7.", "7"),
    ("The answer is 18 or 26.", None),
    ("The answer is 18, or 26.", None),
    ("The answer is 3-5.", None),
    ("The answer is 17. No: the answer is 18! In 3 steps", "18"),
    ("The answer is easy to see: she has 4, so 18", "18"),
    ("The answer is obvious, 9 + 9 gives 18", "18"),
    ("She has 18 eggs", "18"),
    ("She has 9 + 9 = $18.", "18"),
    ("9 - 4", "4"),
    ("x = -5.", "-5"),
    ("It lost -$5", "-5"),
    ("It fell by 3-5", "5"),
    ("1,080 in all.", "1080"),
    ("It is 1.5e3", "1500"),
    ("She has 1 1/2", "1.5"),
    (r"That leaves $\frac{1}{3}$.", "1/3"),
    ("It makes 3 million.", "3000000"),
    ("The area is 18 cm^2", "18"),
    (r"The area is 18 cm^{2}", "18"),
    ("18 litres of H2O and x_1", "18"),
    ("I counted...5", "5"),
    ("1/0", None),
    ("I like gsm8k", None),
    ("no number at all", None),
    ("", None),
    ("\x00", None),
    ("\ud800 18", "18"),
    ("7" * 100, "7" * 100),
    ("7" * 101, None),
    ("#### 1e99", "1" + "0" * 99),
    ("#### 1e100", None),
    ("#### 1e-99", "0." + "0" * 98 + "1"),
    ("#### 1e-100", None),
]


@pytest.mark.parametrize(("line", "answer"), READ)
def test_reads_a_line_that_gives_one_number(line: str, answer: str) -> None:
    assert extract_answer(f"First 99.\n#### {line}\nThen 77.") == answer


@pytest.mark.parametrize("line", REFUSED)
def test_refuses_a_line_that_does_not(line: str) -> None:
    assert extract_answer(f"The answer is 99.\n#### {line}\nThen 77.") is None


@pytest.mark.parametrize(("text", "answer"), PLACES)
def test_finds_the_place_that_decides(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(("near", "gold"), [("17.9999", "18"), ("0.5", "50"), ("1080", "1,081")])
def test_forgives_no_near_miss(near: str, gold: str) -> None:
    assert not answers_agree(extract_answer(f"#### {near}"), extract_answer(f"#### {gold}"))


def test_no_answer_agrees_with_nothing() -> None:
    assert answers_agree("18", "18")
    assert not answers_agree("18", None)
    assert not answers_agree(None, "18")
    assert not answers_agree(None, None)


# Fragments that meet the rules far more often than random characters do.
FRAGMENT_WORDS = ("####", "answer is ", " or ", "million", "format '", "<<", ">>", "<a>")
FRAGMENT_LATEX = (r"\boxed{", r"\frac{1}{2}", r"\text{", "x 10^", "×10", "⁻³", "**")
FRAGMENTS = st.sampled_from(
    [*"\n\r\x00\ud800\u200b ${}()*_'\"`10,./-=e^%½²−１٣", *FRAGMENT_WORDS, *FRAGMENT_LATEX]
)
TEXTS = st.one_of(
    st.text(st.characters(), max_size=80),
    st.lists(FRAGMENTS, max_size=25).map("".join),
)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_any_text_gives_a_canonical_answer_or_none(text: str) -> None:
    answer = extract_answer(text)
    if answer is not None:
        Fraction(answer)
        assert extract_answer(answer) == answer
        assert extract_answer(f"#### {answer}") == answer


@settings(deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_canonical_form_is_exact(value: Fraction) -> None:
    answer = extract_answer(f"#### {value}")
    assert answer is not None
    assert Fraction(answer) == value


@settings(deadline=None)
@given(st.integers(-(10**15), 10**15))
def test_thousands_separators_change_nothing(number: int) -> None:
    assert extract_answer(f"#### ${number:,}.00") == str(number)


LONG_CHARACTERS = "1*#< \n=$²½"
LONG_UNITS = ("1 ", "1,", "1/", "1e", "- ", "<<", "is ", "####", "#### 1", "answer is 1 ", "_000")
LONG_LATEX = (r"\boxed{", r"\frac{1}{", r"\text{")


@pytest.mark.parametrize("unit", [*LONG_CHARACTERS, *LONG_UNITS, *LONG_LATEX])
@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["", "x", "1"])
def test_long_text_ends(unit: str, end: str) -> None:
    # Quadratic work on these would not end within the timeout.
    extract_answer("a" + unit * (300_000 // len(unit)) + end)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["!", "\\"])
@pytest.mark.parametrize("unit", [*"$(*-='", "is ", "is$ ", "1 ", "1,", "a.", "= and", "'*", "** "])
def test_a_hostile_line_ends(unit: str, end: str) -> None:
    # A line is bounded, so only repetition shows that it backtracks: 6 ms each, not 3 s.
    for _ in range(50):
        extract_answer("#### " + (unit * 300)[:299] + end)


@pytest.mark.skipif(not os.environ.get("REGIME_W_GSM8K_DIR"), reason="needs REGIME_W_GSM8K_DIR")
@pytest.mark.parametrize(("split", "num_questions"), [("train", 7473), ("test", 1319)])
def test_reads_every_gold_answer_of_gsm8k(split: str, num_questions: int) -> None:
    path = Path(os.environ["REGIME_W_GSM8K_DIR"], f"{split}.jsonl")
    golds = [json.loads(line)["answer"] for line in path.read_text("utf-8").splitlines()]
    assert len(golds) == num_questions
    for gold in golds:
        assert extract_answer(gold) == gold.rpartition("####")[2].strip().replace(",", "")


SURFACES = (
    "{sign}${n:,}", "$ {sign}{n}", "{sign}{n}.00", "{sign}{n:,}.0", "{minus}{n}", "**{sign}{n}**", "{sign}{n} dollars per week.",
    r"\boxed{{{sign}{n:,}}}", r"$\text{{{sign}{n}}}$", r"\({sign}{n}\)", r"{sign}{n}\%", r"{sign}\${n}", "x = {sign}{n}", "{sign}{n}", "{sign}€{n:,}",
    "{sign}0{n}", "{sign}{n} (of them all)", "**Answer:** {sign}{n}", "{sign}{n}!", "{sign}{n} eggs in total",
)  # fmt: skip


def surfaces(number: int) -> list[str]:
    """A whole number as people and models write it."""
    sign, minus = ("-", "−") if number < 0 else ("", "")
    return [surface.format(n=abs(number), sign=sign, minus=minus) for surface in SURFACES]


@given(st.integers(-(10**9), 10**9))
def test_a_number_is_itself_in_every_form(number: int) -> None:
    for surface in surfaces(number):
        assert extract_answer(f"So it is.\n#### {surface}") == str(number), surface


@pytest.mark.skipif(not os.environ.get("REGIME_W_GSM8K_DIR"), reason="needs REGIME_W_GSM8K_DIR")
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_gold_of_gsm8k_is_itself_in_every_form(split: str) -> None:
    path = Path(os.environ["REGIME_W_GSM8K_DIR"], f"{split}.jsonl")
    for line in path.read_text("utf-8").splitlines():
        gold = json.loads(line)["answer"].rpartition("####")[2].strip().replace(",", "")
        for surface in surfaces(int(gold)):
            assert answers_agree(extract_answer(f"#### {surface}"), gold), surface
