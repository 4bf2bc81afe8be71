"""Counterfactual questions of a source."""

import pytest

from regime_w.counterfactual.reexecution import reexecuted
from trainer.data.counterfactuals import Counterfactuals
from trainer.data.sources import Record, load_records, normalised
from trainer.data.word_problems import Split, split_of
from trainer.errors import DataError

RECORDS = load_records("word-problems", Split.TRAIN, num_records=400)


def test_one_number_is_changed_and_the_answer_worked_out_again() -> None:
    made = [c for record in RECORDS if (c := Counterfactuals(RECORDS).of(record))]
    assert len(made) > 200
    by_id = {record.id: record for record in RECORDS}
    for counterfactual in made:
        assert counterfactual.counterfactual_of is not None
        record = by_id[counterfactual.counterfactual_of]
        words, changed = record.question.split(), counterfactual.question.split()
        assert sum(one != other for one, other in zip(words, changed, strict=True)) == 1
        assert not counterfactual.is_answered_by(record.gold)
        assert counterfactual.id == f"{record.id}~"


def test_a_counterfactual_is_of_its_questions_part() -> None:
    """The built-in source and the parts of a file tell questions apart by different hashes."""
    made = [(r, c) for r in RECORDS if (c := Counterfactuals(RECORDS).of(r))]
    for record, counterfactual in made:
        assert split_of(counterfactual.question) is split_of(record.question) is Split.TRAIN
        assert split_of(normalised(counterfactual.question)) is split_of(
            normalised(record.question)
        )
    changed = [reexecuted(r.question, r.gold, nearest_first=True) for r in RECORDS]
    assert any(c and split_of(c.question) is Split.HELD_OUT for c in changed)


def test_no_question_of_the_evaluation_is_made() -> None:
    record, made = next((r, c) for r in RECORDS if (c := Counterfactuals(RECORDS).of(r)))
    shouted = Record(id="e", question=made.question.upper(), gold=made.gold)
    assert Counterfactuals(RECORDS, [shouted]).of(record) is None


def test_what_the_server_does_not_take_is_not_made() -> None:
    counterfactuals = Counterfactuals(RECORDS, is_askable=lambda record: False)
    assert not any(counterfactuals.of(record) for record in RECORDS)


def test_a_counterfactual_is_found_by_its_id() -> None:
    counterfactuals = Counterfactuals(RECORDS)
    made = [c for record in RECORDS if (c := counterfactuals.of(record))]
    assert [counterfactuals.find(c.id) for c in made] == made
    assert counterfactuals.find(RECORDS[0].id) is None
    assert counterfactuals.find("nobody~") is None


@pytest.mark.parametrize("gold", ["#### 7", "3 + 4 = 7\n#### 7"])
def test_a_source_without_annotated_steps_has_none(gold: str) -> None:
    records = [Record(id="q", question="Ada has 3 pens and buys 4. How many?", gold=gold)]
    with pytest.raises(DataError, match="annotated steps"):
        Counterfactuals(records).require_some("mine.jsonl")


def test_a_source_says_how_many_have_one() -> None:
    counterfactuals = Counterfactuals(RECORDS)
    number = sum(counterfactuals.of(record) is not None for record in RECORDS)
    line = counterfactuals.require_some("word-problems")
    assert line == f"data: {number} of the first 400 questions have a counterfactual"
