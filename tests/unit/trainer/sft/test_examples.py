"""Demonstrations about which SFT warns."""

import pytest

from regime_w import answer_type_of
from regime_w.answer_types.answer_type import AnswerTypeName
from trainer.data.sources import Record
from trainer.sft.examples import sft_advice


@pytest.mark.parametrize(
    ("answer_type", "golds", "num_bare"),
    [
        ("number", ["18", "$1,018.00", "12 dollars"], 3),
        ("number", ["18", "#### 7", "She sells 9 eggs for 2 dollars each.\n#### 18"], 2),
        ("number", ["18", "She sells 9 eggs for 2 dollars each.\n#### 18"], 0),
        ("number", ["9*2=18\n#### 18", "9 * 2 = 18", "小明有9个鸡蛋，9×2。\n#### 18"], 0),
        ("number", ["She sells all of her nine eggs, for 18 dollars."], 0),
        ("text", ["The Treaty of Versailles (1919)"], 1),
        ("text", ["It was signed in 1919 at Versailles.\n#### The Treaty of Versailles"], 0),
        ("math", ["x^2 + 3x + 2", "x = 3 + 2"], 2),
        ("math", ["\\frac{1}{2}\nis \\boxed{0.5}"], 0),
        ("number", [], 0),
    ],
)
def test_demonstrations_without_solutions_are_named(
    answer_type: AnswerTypeName, golds: list[str], num_bare: int
) -> None:
    kind = answer_type_of(answer_type)
    records = [
        Record(id=str(i), question="?", gold=gold, answer_type=kind) for i, gold in enumerate(golds)
    ]
    lines = sft_advice(1e-4, records, ())
    assert [line.partition(" demonstrations")[0] for line in lines] == (
        [f"{num_bare} of {len(golds)}"] if num_bare else []
    )


STEPS = "She sells 9 eggs for 2 dollars each.\n#### 18"


@pytest.mark.parametrize(
    ("training", "held_out", "said"),
    [
        ([STEPS], ["18", "7"], "2 of 2 held-out demonstrations are an answer alone"),
        ([STEPS, "7"], ["18", "7", STEPS], "2 of 3 held-out demonstrations"),
        ([STEPS], ["18", STEPS], None),
        ([STEPS], [], None),
        # One line is enough where nothing has steps.
        (["18"], ["18"], "1 of 1 demonstrations are an answer alone"),
    ],
)
def test_held_out_answers_beside_solutions_to_learn_are_named(
    training: list[str], held_out: list[str], said: str | None
) -> None:
    records, others = (
        [Record(id=str(i), question="?", gold=gold) for i, gold in enumerate(golds)]
        for golds in (training, held_out)
    )
    lines = sft_advice(1e-4, records, others)
    assert len(lines) == (said is not None)
    assert said is None or lines[0].startswith(said)
