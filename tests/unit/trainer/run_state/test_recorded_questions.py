"""A start says when the questions are not those of the start before."""

from dataclasses import replace
from pathlib import Path

import pytest

from trainer.config.sections import DataConfig
from trainer.data.sources import Record
from trainer.run_state.recorded_questions import QUESTIONS_FILE, QuestionRecord, SourceQuestions

DATA = DataConfig(source="mine.jsonl", evaluation_source="theirs.jsonl")
RECORDS = [Record(id=f"q{i}", question=f"{i} and {i}?", gold=str(2 * i)) for i in range(4)]
HELD_OUT = [Record(id=f"h{i}", question=f"{i} less 1?", gold=str(i - 1)) for i in range(2)]


def warnings(
    folder: Path,
    training: list[Record],
    held_out: list[Record] | None,
    *,
    num_too_long: int = 0,
    fails: bool = False,
) -> list[str]:
    """The warnings of a start, which asks all questions but the last ``num_too_long`` to train on."""
    found = QuestionRecord(
        folder,
        DATA,
        SourceQuestions(records=training, asked=training[: len(training) - num_too_long]),
        None if held_out is None else SourceQuestions(records=held_out, asked=held_out),
    )
    if not fails:
        found.write()
    return [line for line in found.lines if line.startswith("warning: ")]


@pytest.mark.parametrize(
    ("training", "held_out", "words"),
    [
        (RECORDS, HELD_OUT, None),
        (RECORDS, None, None),
        (
            [*RECORDS[:2], replace(RECORDS[2], gold="5"), RECORDS[3]],
            HELD_OUT,
            "1 question differs, q2",
        ),
        (
            [replace(r, columns={"level": 1}) for r in RECORDS],
            HELD_OUT,
            "4 questions differ, q0",
        ),
        (RECORDS[::-1], HELD_OUT, "4 questions differ, q3"),
        (RECORDS[:3], HELD_OUT, "4 questions then, 3 now, the others as they were"),
        (RECORDS, HELD_OUT[:1], "data.evaluation_source theirs.jsonl was changed"),
    ],
)
def test_changed_data_are_said_once(
    training: list[Record], held_out: list[Record] | None, words: str | None, tmp_path: Path
) -> None:
    assert warnings(tmp_path, RECORDS, HELD_OUT) == []
    found = warnings(tmp_path, training, held_out)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]
    assert warnings(tmp_path, training, held_out) == []
    # What was not read the last time is as it was before.
    assert (warnings(tmp_path, training, HELD_OUT) == []) is (held_out != HELD_OUT[:1])


def test_a_start_that_fails_is_none_to_compare_with(tmp_path: Path) -> None:
    assert warnings(tmp_path, RECORDS, HELD_OUT) == []
    assert warnings(tmp_path, RECORDS[:3], HELD_OUT, fails=True) != []
    assert warnings(tmp_path, RECORDS, HELD_OUT) == []


@pytest.mark.parametrize(("then", "now"), [(0, 2), (2, 0), (1, 2)])
def test_another_context_is_no_change_of_the_data(then: int, now: int, tmp_path: Path) -> None:
    assert warnings(tmp_path, RECORDS, HELD_OUT, num_too_long=then) == []
    assert warnings(tmp_path, RECORDS, HELD_OUT, num_too_long=now) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"data.source": 5}'])
def test_a_record_that_cannot_be_read_is_begun_again(content: bytes, tmp_path: Path) -> None:
    (tmp_path / QUESTIONS_FILE).write_bytes(content)
    assert warnings(tmp_path, RECORDS, HELD_OUT) == []
    assert warnings(tmp_path, RECORDS[:1], HELD_OUT) != []
