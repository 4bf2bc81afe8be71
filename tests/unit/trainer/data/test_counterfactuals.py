"""Counterfactual questions of a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.unit.versions_in_memory import STATUS
from trainer.config.sections import DataConfig, TrainConfig
from trainer.data.counterfactuals import (
    Counterfactuals,
    askable_counterfactuals,
    check_counterfactuals,
)
from trainer.data.sources import Record, load_records, normalised
from trainer.data.word_problems import Split, split_of
from trainer.errors import DataError

RECORDS = load_records("word-problems", Split.TRAIN, num_records=400)


def run(**sections: dict[str, object]) -> TrainConfig:
    """A run with counterfactuals; ``sections`` change some settings."""
    given = {"data": {"counterfactual": 0.25}} | sections
    given["data"] = {"counterfactual": 0.25, **given["data"]}
    return TrainConfig.model_validate(given)


def made_of(config: TrainConfig, records: list[Record]) -> list[Record]:
    counterfactuals = askable_counterfactuals(config, records, STATUS, [])
    return [made for record in records if (made := counterfactuals.of(record))]


def write(path: Path, records: list[Record]) -> Path:
    rows = [{"question": record.question, "answer": record.gold} for record in records]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_one_number_is_changed_and_the_answer_worked_out_again() -> None:
    made = made_of(run(), RECORDS)
    assert len(made) > 150
    by_id = {record.id: record for record in RECORDS}
    for counterfactual in made:
        assert counterfactual.counterfactual_of is not None
        record = by_id[counterfactual.counterfactual_of]
        words, changed = record.question.split(), counterfactual.question.split()
        assert sum(one != other for one, other in zip(words, changed, strict=True)) == 1
        assert not counterfactual.is_answered_by(record.gold)
        assert counterfactual.id == f"{record.id}~"


def test_a_counterfactual_has_the_columns_of_its_question_under_their_names() -> None:
    named = [replace(r, question_name="problem", answer_name="solution") for r in RECORDS]
    made = made_of(run(), named)
    assert made
    for counterfactual in made:
        own = {"problem": counterfactual.question, "solution": counterfactual.gold}
        assert counterfactual.named_columns == own


# --- what is held out ----------------------------------------------------------------------------


def test_a_question_that_the_generator_holds_out_is_never_made() -> None:
    any_made = [c for record in RECORDS if (c := Counterfactuals(RECORDS).of(record))]
    assert any(split_of(c.question) is Split.HELD_OUT for c in any_made)
    assert all(split_of(c.question) is Split.TRAIN for c in made_of(run(), RECORDS))


@pytest.mark.parametrize("evaluate_every", [None, 5])
def test_no_question_of_an_evaluation_file_is_made_whatever_a_run_evaluates(
    evaluate_every: int | None, tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", RECORDS)
    any_made = [c for record in RECORDS if (c := Counterfactuals(RECORDS).of(record))]
    shouted = [Record(id=c.id, question=c.question.upper(), gold=c.gold) for c in any_made[::2]]
    test = write(tmp_path / "test.jsonl", shouted)
    config = run(
        data={"source": str(train), "evaluation_source": str(test)},
        run={"evaluate_every": evaluate_every, "num_evaluation_questions": 1},
    )
    assert [made.id for made in made_of(config, RECORDS)] == [c.id for c in any_made[1::2]]


def test_a_thousand_with_a_comma_is_the_same_number(tmp_path: Path) -> None:
    record = Record(id="q", question="Ann has 1,000 eggs, Bo 7.", gold="<<1000-7=993>>\n#### 993")
    made = Counterfactuals([record]).of(record)
    assert made is not None
    assert "1,001" in made.question
    bare = Record(id="e", question=made.question.replace(",0", "0"), gold=made.gold)
    test = write(tmp_path / "test.jsonl", [bare])
    with pytest.raises(DataError):
        made_of(run(data={"evaluation_source": str(test)}), [record])


def test_a_part_of_a_file_makes_no_question_of_the_other_part(tmp_path: Path) -> None:
    train = write(tmp_path / "all.jsonl", RECORDS)
    test = write(tmp_path / "test.jsonl", RECORDS[:1])
    config = run(data={"source": f"{train}#train", "evaluation_source": str(test)})
    any_made = [c for record in RECORDS if (c := Counterfactuals(RECORDS).of(record))]
    expected = [c for c in any_made if split_of(normalised(c.question)) is Split.TRAIN]
    assert made_of(config, RECORDS) == expected != any_made


# --- what can be asked ---------------------------------------------------------------------------


def test_a_counterfactual_is_found_by_its_id_whatever_is_held_out_since() -> None:
    made = [c for record in RECORDS if (c := Counterfactuals(RECORDS).of(record))]
    later = Counterfactuals(RECORDS, lambda counterfactual: False)
    assert [later.find(c.id) for c in made] == made
    assert not any(later.of(record) for record in RECORDS)
    assert later.find(RECORDS[0].id) is None
    assert later.find("nobody~") is None


@pytest.mark.parametrize("gold", ["#### 7", "3 + 4 = 7\n#### 7"])
def test_a_source_without_annotated_steps_has_none(gold: str) -> None:
    records = [Record(id="q", question="Ada has 3 pens and buys 4. How many?", gold=gold)]
    with pytest.raises(DataError, match="annotated steps"):
        check_counterfactuals(run(), records)
    check_counterfactuals(TrainConfig(), records)


def test_a_step_of_one_question_has_no_room_for_a_pair() -> None:
    with pytest.raises(ValidationError, match=r"rollout\.questions_per_step = 1"):
        run(rollout={"questions_per_step": 1})


def test_columns_of_another_question_are_not_given_to_reward_functions() -> None:
    records = [Record(id="q", question="5 + 7?", gold="<<5+7=12>>#### 12", columns={"final": 12})]
    config = run(reward={"functions": ["regime_w", "mine.py:reward"]})
    with pytest.raises(DataError, match=r"reward\.functions"):
        check_counterfactuals(config, records)
    check_counterfactuals(run(), records)
    check_counterfactuals(config, [Record(id="q", question="5 + 7?", gold=records[0].gold)])


def test_other_answers_than_numbers_are_refused_at_once() -> None:
    with pytest.raises(
        ValidationError, match="counterfactual is for answer_type = number, not text"
    ):
        DataConfig(counterfactual=0.25, answer_type="text")


def test_a_run_that_asks_for_some_says_how_many_there_are() -> None:
    lines: list[str] = []
    found = askable_counterfactuals(run(), RECORDS, STATUS, lines)
    number = sum(found.of(record) is not None for record in RECORDS)
    assert lines == [f"data: {number} of the first 400 questions have a counterfactual"]
    askable_counterfactuals(run(reward={"formulas": "original"}), RECORDS, STATUS, lines)
    assert "s_cf is always 0.5" in lines[-1]
    askable_counterfactuals(TrainConfig(), RECORDS, STATUS, lines := [])
    assert lines == []
