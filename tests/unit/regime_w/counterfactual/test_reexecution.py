"""Counterfactual questions: one number changed, the answer computed again."""

import ast
import json
import os
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_w import extract_answer
from regime_w.counterfactual import Counterfactual, reexecuted, with_suffix
from regime_w.counterfactual.steps import MAX_STEPS

GSM8K = os.environ.get("REGIME_W_GSM8K_DIR")

PENS = "Ada buys 12 pens for $3 each. She pays with 50 dollars. How much is left?"
PENS_SOLUTION = "12*3=$<<12*3=36>>36\n50-36=$<<50-36=14>>14 left\n#### 14"


# (question, solution, number before, number after, new answer)
CHANGED = [
    # 24 * 3 = 72 is more than 50, and so is 36 * 3: the third number tried is 13.
    (PENS, PENS_SOLUTION, "12", "13", "11"),
    ("Bo has 5 cats and 8 dogs.", "<<5+8=13>>13\n#### 13", "5", "10", "18"),
    ("Bo has 1,080 cats and 8 dogs.", "<<1080+8=1088>>\n#### 1,088", "1,080", "2,160", "2168"),
    ("A pen costs $2.50, and 4 are bought.", "<<2.5*4=10>>\n#### 10", "2.50", "5.00", "20"),
    # Doubled, 60 % would be more than all of it.
    ("Of 300 eggs 60% are brown, of 300 others none.", "<<.6*300=180>>180\n#### 180", "60", "61", "183"),
    # Half of an odd number is no number of cats: the next one is changed.
    ("Bo halves 9 apples 2 times.", "<<9+2=11>>11\n#### 11", "9", "18", "20"),
    ("He runs 4 laps of 100 yards, then 4 more than that.", "<<4*100=400>>\n#### 400", "100", "200", "800"),
    # 9/6 is not whole, 12-22 and 12-12 are no amounts.
    ("3 of them share a 9.", "<<9/3=3>>3\n#### 3", "3", "9", "1"),
    ("Of dozens take 11.", "<<12-11=1>>1\n#### 1", "11", "10", "2"),
    ("Of 20 pens Bo takes 25% away.", "<<20*25*.01=5>>5\n<<20-5=15>>15\n#### 15", "20", "40", "30"),
    ("Two boxes of 6 eggs lie there.", "<<2*6=12>>12\n#### 12", "6", "12", "24"),
    ("He sleeps 9 hours a day for a week.", "<<9*7=63>>63\n#### 63", "9", "18", "126"),
]  # fmt: skip


# The same where the nearest change of all numbers comes first.
NEAREST = [
    (PENS, PENS_SOLUTION, "12", "13", "11"),
    ("Bo has 5 cats and 8 dogs.", "<<5+8=13>>13\n#### 13", "5", "6", "14"),
    ("Of 300 eggs 60% are brown, of 300 others none.", "<<.6*300=180>>180\n#### 180", "60", "61", "183"),
    ("Bo halves 9 apples 2 times.", "<<9+2=11>>11\n#### 11", "9", "10", "12"),
    # 10 is nearer to 5 than 40 to 20.
    ("Of 20 pens Bo takes 25% away.", "<<20*25*.01=5>>5\n<<20-5=15>>15\n#### 15", "25", "30", "14"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("careful", "question", "solution", "old", "new", "gold"),
    [*((False, *case) for case in CHANGED), *((True, *case) for case in NEAREST)],
)
def test_one_number_is_changed_and_the_answer_computed_again(
    careful: bool, question: str, solution: str, old: str, new: str, gold: str
) -> None:
    found = reexecuted(question, solution, careful=careful)
    expected = question.replace(old, new, 1)
    assert found == Counterfactual(question=expected, gold=gold, offset=None, change=(old, new))


# What a careful change refuses, though each step binds its numbers.
CARELESS = {
    "used twice": ("A farm has 4 bees.", "4*4=<<4*4=16>>16\n#### 16", {"4"}),
    "used in two steps": ("Each of 7 pays 30.", "<<7*30=210>>210\n<<210+7=217>>217\n#### 217", {"7"}),
    "parts of a whole": ("60% of 80 are men, 40% women.", "<<.6*80=48>>48\n#### 48", {"60", "40"}),
    "days of a week": ("He works 6 days a week.", "<<6*9=54>>54\n#### 54", {"6"}),
    "a kind of car": ("A 4-wheel drive.", "<<4*9=36>>36\n#### 36", {"4"}),
    "worked out in words": ("A team of 10 plays 5 games.", "10/2 = 5\n<<5*9=45>>\n#### 45", {"5"}),
    "a sum in another sentence": ("Bo has 3 cats and 4 dogs, 7 in all, for 8 days.", "<<3+4=7>>7\n<<7*8=56>>56\n#### 56", {"3", "4", "7"}),
    "what is left of a whole": ("Of 10 balls 4 are red, the other six not; 3 go.", "<<10-3=7>>7\n#### 7", {"10", "4"}),
    "a product of others": ("2.5 boxes of 8, that is 20 eggs, at 11.", "<<20*11=220>>220\n#### 220", {"20"}),
    "people by name": ("The 3 of them, An, Bo and Cy, pay 5 each.", "<<3*5=15>>15\n#### 15", {"3"}),
    "weekdays": ("He works 5 hours on weekdays.", "<<5*9=45>>45\n#### 45", {"5"}),
}  # fmt: skip


@pytest.mark.parametrize("why", CARELESS)
def test_what_knowledge_of_the_world_may_fix_is_not_changed_for_training(why: str) -> None:
    question, solution, fixed = CARELESS[why]
    found = reexecuted(f"{question} There are 9 of them.", solution, careful=True)
    assert found is None or (found.change is not None and found.change[0] not in fixed)


# What could be bound in two ways, or to nothing, or makes no sense when changed.
REFUSED = {
    "no annotation": ("Bo has 5 cats and 8 dogs.", "5+8=13\n#### 13"),
    "no answer": ("Bo has 5 cats and 8 dogs.", "<<5+8=13>>13\n#### unknown"),
    "the last step is not the answer": ("Bo has 5 cats and 8 dogs.", "<<5+8=13>>\n#### 14"),
    "a false step": ("Bo has 5 cats and 8 dogs.", "<<5+8=14>>\n#### 14"),
    "a step that cannot be read": ("Bo has 5 cats.", "<<5+x=13>>\n#### 13"),
    "a result that cannot be read": ("Bo has 5 cats.", "<<5+8=thirteen>>\n#### 13"),
    "a number worked out in words": ("Bo has 5 cats and 8 dogs.", "<<13=13>>\n#### 13"),
    "twice in the question": ("Bo has 5 cats and 5 dogs.", "<<5+5=10>>10\n#### 10"),
    "a numeral and a word": ("Bo has 5 cats and five dogs.", "<<5+5=10>>10\n#### 10"),
    "a unit's constant": ("He works 7 hours for 7 days.", "<<7*7=49>>49\n#### 49"),
    "a numeral and a result": ("5 and 8 and 13.", "<<5+8=13>>13\n<<13+13=26>>26\n#### 26"),
    "from nowhere": ("Bo has 5 cats.", "<<5*31=155>>155\n#### 155"),
    "a year": ("Since 2005 it is so.", "<<2005-5=2000>>2000\n#### 2000"),
    "a clock time": ("At 8:30 he leaves.", "<<8+1=9>>9\n#### 9"),
    "at 8 pm": ("At 8 pm he leaves.", "<<8+1=9>>9\n#### 9"),
    "a fraction": ("He eats 3/8 of it.", "<<3/8=.375>>\n#### .375"),
    "a part of a word": ("He drives a B52 there.", "<<52+1=53>>53\n#### 53"),
    "one": ("Bo has 1 cat.", "<<1+1=2>>2\n#### 2"),
    "taken and left are the same": ("He loses 50% of the dollars.", "<<.5*100=50>>50\n#### 50"),
    "a division by zero": ("Bo has 5 cats.", "<<5/0=1>>1\n#### 1"),
    "too many digits": (f"Bo has {'9' * 30} cats.", f"<<{'9' * 30}+1={10**30}>>\n#### {10**30}"),
    "other positions": ("Bo has \u200b5 cats and 8 dogs.", "<<5+8=13>>13\n#### 13"),
    "too many steps": ("Bo has 5 cats.", "<<5+1=6>>" * (MAX_STEPS + 1) + "#### 6"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_in_doubt_there_is_no_question(case: str) -> None:
    assert reexecuted(*REFUSED[case]) is None


@pytest.mark.parametrize(
    ("gold", "offset", "answer"),
    [("#### 5", 17, "22"), ("#### -5", 3, "-2"), ("3 + 4 = 7\n#### $1,000", 1, "1001"), ("#### 1/2", 17, "17.5")],
)  # fmt: skip
def test_a_suffix_moves_the_answer(gold: str, offset: int, answer: str) -> None:
    found = with_suffix("How many? ", gold, offset)
    assert found is not None
    assert (found.gold, found.offset, found.change) == (answer, str(offset), None)
    assert found.question.startswith("How many? Add ")
    assert str(offset) in found.question


@pytest.mark.parametrize("gold", ["", "no number", "#### 3 or 4", "#### " + "9" * 100])
def test_without_an_answer_there_is_nothing_to_move(gold: str) -> None:
    assert with_suffix("How many?", gold) is None


@settings(deadline=None)
@given(st.text(st.characters()), st.text(st.characters()))
def test_no_text_raises(question: str, solution: str) -> None:
    reexecuted(question, solution)
    with_suffix(question, solution)


@pytest.mark.parametrize("text", ["9 " * 50_000, "9" * 100_000, "<<" * 50_000, "<<1+1=2>>" * 10_000, "\ud800\0"])  # fmt: skip
def test_long_and_odd_texts_end(text: str) -> None:
    assert reexecuted(text, text) is None
    assert reexecuted(text, "<<5+8=13>>13\n#### 13") is None
    assert reexecuted("Bo has 5 cats and 8 dogs.", text) is None


# --- real records ------------------------------------------------------------------------------


def python_value(expression: str) -> Fraction:
    """Python's own reading of an expression, in fractions."""

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant():
                return Fraction(ast.get_source_segment(source, node) or "")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right):
                a, b = value(left), value(right)
                if isinstance(op, ast.Add):
                    return a + b
                if isinstance(op, ast.Sub):
                    return a - b
                return a * b if isinstance(op, ast.Mult) else a / b
        raise AssertionError(ast.dump(node))

    source = re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"[$,\s]", "", expression))
    source = re.sub(r"([\d.]+)%", r"(\1/100)", source).replace("x", "*").replace("X", "*")
    return value(ast.parse(source, mode="eval").body)


def reexecuted_by_python(
    solution: str, old: Fraction, new: Fraction, *, is_percentage: bool
) -> Fraction:
    """The last step's result after every literal ``old``, and what follows from it, has changed."""
    moved = {old: new} | ({old / 100: new / 100} if is_percentage else {})
    result = Fraction(0)
    for expression, written in re.findall(r"<<([^=<>]*)=([^<>]*)>>", solution):
        source = expression.replace(",", "")
        parts = re.split(r"(\d+\.?\d*|\.\d+)", source)
        for i in range(1, len(parts), 2):
            literal = Fraction(parts[i])
            if literal * 100 in moved and literal not in moved and literal * 100 != old:
                literal, scale = literal * 100, Fraction(1, 100)
            else:
                scale = Fraction(1)
            value = moved.get(literal, literal) * scale
            parts[i] = f"({value.numerator}/{value.denominator})"
        result = python_value("".join(parts))
        moved.setdefault(python_value(written), result)
    return result


def records(name: str) -> list[dict[str, str]]:
    text = (Path(str(GSM8K)) / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.skipif(not GSM8K, reason="needs REGIME_W_GSM8K_DIR")
@pytest.mark.parametrize("name", ["train", "test"])
def test_half_of_gsm8k_is_reexecuted_and_python_agrees(name: str) -> None:
    counts: Counter[str] = Counter()
    for record in records(name):
        counts["all"] += 1
        found = reexecuted(record["question"], record["answer"])
        if found is None:
            continue
        counts["pairs"] += 1
        assert found.change is not None
        old, new = (Fraction(text.replace(",", "")) for text in found.change)
        gold = extract_answer(record["answer"])
        assert gold is not None
        assert found.gold != gold
        is_percentage = f"{found.change[1]}%" in found.question
        assert Fraction(found.gold) == reexecuted_by_python(
            record["answer"], old, new, is_percentage=is_percentage
        )
        if Fraction(gold) >= 0 and "." not in gold and "/" not in gold:
            assert re.fullmatch("[0-9]+", found.gold)
        assert len(found.question) - len(record["question"]) == len(found.change[1]) - len(
            found.change[0]
        )
    assert counts["pairs"] >= 0.5 * counts["all"]


@pytest.mark.skipif(not GSM8K, reason="needs REGIME_W_GSM8K_DIR")
def test_every_record_takes_a_suffix() -> None:
    for record in records("train") + records("test"):
        found = with_suffix(record["question"], record["answer"])
        gold = extract_answer(record["answer"])
        assert found is not None
        assert gold is not None
        assert Fraction(found.gold) - Fraction(gold) == 17
