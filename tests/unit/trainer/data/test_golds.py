"""Gold answers of data files: one number each, or the record is refused with its line."""

import json
from pathlib import Path

import pytest

from regime_w import RewardConfig, extract_gold, reward_group
from trainer.commands.sample import sample
from trainer.config.sections import SampleConfig
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.errors import DataError

NOT_ONE_NUMBER = ["12:00", "(1, 2)", r"2\sqrt{3}", "3-5", "5 or 6", "2^{10}", "[0,1)", "x^2+2x+1"]
MAYBE_ANOTHER = ["3i", "5!", r"\boxed{5!}", "2 dozen", "5 May", "5th"]


def rows(path: Path, *golds: str) -> Path:
    lines = (json.dumps({"question": f"q{i}", "answer": gold}) for i, gold in enumerate(golds))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    "gold", [*NOT_ONE_NUMBER, *MAYBE_ANOTHER, "2 hours 30 minutes", "So she has 18"]
)
def test_a_record_whose_gold_is_not_one_number_is_refused_with_its_line(
    gold: str, tmp_path: Path
) -> None:
    path = rows(tmp_path / "d.jsonl", "18", gold)
    with pytest.raises(DataError) as caught:
        load_records(str(path), Split.TRAIN, num_records=9)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: answer: {gold!r} is not one number")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("written", "gold"),
    [
        ("18", "18"),
        ("-5", "-5"),
        ("18.0", "18"),
        ("0.1", "0.1"),
        ("1e3", "1000"),
        # More digits than a float has.
        ("12345678901234567890123", "12345678901234567890123"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
    ],
)
def test_a_json_number_is_a_gold_digit_by_digit(written: str, gold: str, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(f'{{"question": "q", "answer": {written}, "level": 0.25}}')
    (record,) = load_records(str(path), Split.TRAIN, num_records=9)
    assert extract_gold(record.gold) == gold
    assert record.columns == {"level": 0.25}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("NaN", "'answer' is NaN, which JSON does not have"),
        ("-Infinity", "'answer' is -Infinity"),
        ('18, "of": [{"a": NaN}]', "'a' is NaN"),
        ('18, "of": [1, [Infinity]]', "'of' is Infinity"),
        ("1e999", "not one number"),
        ("true", "a text or a number, not true or false"),
        ("null", "a text or a number, not null"),
        ("[18]", "a text or a number, not a list"),
        ('18, "answer": 19', "'answer' is given twice"),
        ('18, "of": [{"a": 1, "a": 2}]', "'a' is given twice"),
    ],
)
def test_a_json_value_that_is_no_gold_is_refused_with_its_line(
    written: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(f'\n{{"question": "q", "answer": {written}}}')
    with pytest.raises(DataError, match=said) as caught:
        load_records(str(path), Split.TRAIN, num_records=9)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_a_bare_number_a_solution_and_a_box_are_golds(tmp_path: Path) -> None:
    path = rows(tmp_path / "d.jsonl", "18", "$1,018.50", "9+9=18\n#### 18", r"So \boxed{18}.")
    assert len(load_records(str(path), Split.TRAIN, num_records=9)) == 4


async def test_sample_refuses_a_gold_that_is_not_one_number() -> None:
    with pytest.raises(DataError, match=r"^gold: '12:00' is not one number"):
        await sample(SampleConfig(question="q", gold="12:00"))


@pytest.mark.parametrize("gold", NOT_ONE_NUMBER)
def test_a_group_is_not_judged_by_such_a_gold(gold: str) -> None:
    arm = {"full_text": gold, "reasoning": "", "answer": gold[-1]}
    assert reward_group([arm], gold, config=RewardConfig()).scores.correct is None
