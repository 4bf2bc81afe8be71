"""A command says at its start what it leaves out of its questions."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trainer.config.sections import DataConfig, EvaluationConfig, SFTConfig, TrainConfig
from trainer.config.sft import SFTRunConfig
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.evaluation.questions import asked_questions
from trainer.online.asked_questions import load_questions
from trainer.sft.examples import load_data

ROWS = [{"question": f"What is {i}?", "answer": f"#### {i}"} for i in range(40)]


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_of_starts(data: Mapping[str, Any], folder: Path) -> dict[str, list[str]]:
    """The lines of each command that takes at most three questions of a source."""
    config = DataConfig(num_questions=3, **data)
    sft: list[str] = []
    asked: list[str] = []
    run = SFTRunConfig(data=config, sft=SFTConfig(num_examples=3, num_evaluation_examples=0))
    load_data(run, folder, sft.append)
    named = {name: f"data_{name}" for name in ("question", "answer", "answer_type", "choices")}
    own = {named[name]: value for name, value in data.items() if name in named}
    asked_questions(EvaluationConfig(data=config.source, num_questions=3, **own), asked.append)
    loaded = load_questions(TrainConfig(data=config))
    return {"train": [*loaded.lines], "sft": sft, "eval": asked}


@pytest.mark.parametrize("part", ["", "#train", "#held_out"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_source_says_if_it_has_more_than_is_taken(kind: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine.{kind}"
    rows = Dataset.from_list(ROWS)
    if kind == "parquet":
        rows.to_parquet(path)
    elif kind == "csv":
        rows.to_csv(path)
    else:
        rows.to_json(path, lines=kind == "jsonl")
    whole = load_records(f"{path}{part}", Split.TRAIN, num_records=99)
    for less, more in ((0, []), (1, [True])):
        found = list[bool]()
        taken = load_records(
            f"{path}{part}",
            Split.TRAIN,
            num_records=len(whole) - less,
            on_more=lambda: found.append(True),  # noqa: B023
        )
        assert taken == whole[: len(whole) - less]
        assert found == more


def test_what_is_not_taken_may_be_damaged(tmp_path: Path) -> None:
    flawed = written(tmp_path / "flawed.jsonl", [*ROWS[:3], {"question": "no answer"}])
    cut = tmp_path / "cut.jsonl.gz"
    text = flawed.read_bytes()
    cut.write_bytes(gzip.compress(text[: text.index(b"no")]) + gzip.compress(text)[:20])
    for path in (flawed, cut):
        found = list[bool]()
        load_records(
            str(path),
            Split.TRAIN,
            num_records=3,
            on_more=lambda: found.append(True),  # noqa: B023
        )
        assert found == [True]


def test_every_command_says_that_it_takes_the_first_questions(tmp_path: Path) -> None:
    source = str(written(tmp_path / "mine.jsonl", ROWS))
    keys = {"train": "data.num_questions", "sft": "sft.num_examples", "eval": "num_questions"}
    for name, lines in lines_of_starts({"source": source}, tmp_path).items():
        (line,) = [line for line in lines if "first 3" in line]
        assert line.startswith(f"data: {source} has more than 3 questions")
        assert keys[name] in line
    built_in = lines_of_starts({"source": "word-problems"}, tmp_path / "other")
    assert [line for lines in built_in.values() for line in lines if "first 3" in line] == []


def conversation(system: str | None, i: int) -> dict[str, Any]:
    said = [] if system is None else [{"role": "system", "content": system}]
    asked = {"role": "user", "content": f"What is {i}?"}
    return {"messages": [*said, asked, {"role": "assistant", "content": f"#### {i}"}]}


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        ([None, "", " "], None),
        (
            ["Be brief.", None, "Be  long."],
            "2 of 3 questions of SOURCE have a system message, which",
        ),
        (
            ["Be brief."] * 3,
            "3 of 3 questions of SOURCE have a system message (all the same: 'Be brief.'), which",
        ),
        (["long " * 50] * 3, f"(all the same: '{'long ' * 12}…'), which is left out"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_command_says_that_system_messages_are_left_out(
    kind: str, systems: list[str | None], said: str | None, tmp_path: Path
) -> None:
    path = tmp_path / f"mine.{kind}"
    rows = [conversation(system, i) for i, system in enumerate(systems)]
    if kind == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        written(path, rows)
    for lines in lines_of_starts({"source": str(path)}, tmp_path / "sft").values():
        found = [line for line in lines if "system message" in line]
        assert len(found) == (said is not None)
        assert said is None or said.replace("SOURCE", str(path)) in found[0]


SHOWN = (
    "(A) {} (B) {}",
    "A) {}\nB) {}",
    "A. {}\nB. {}",
    "A: {}, B: {}",
    "a) {} b) {}",
    "**A.** {}\n**B.** {}",
    "（A）{}（B）{}",
    "A、{}\nB、{}",
    "Ａ.{} Ｂ.{}",
    "<A> {} <B> {}",
    "_A_: {}, _B_: {}",
    "- a: {}\n- b: {}",
)


@pytest.mark.parametrize(
    ("questions", "is_said"),
    [
        *(([f"Which one is it? {shown}"] * 3, False) for shown in SHOWN),
        (["Which one is it?\n\nA {}\nB {}"], False),
        (["Which one is it?\n\na {}\nb {}"], False),
        (["Which one is it?\n  - **a** {}\n  - **b** {}"], False),
        (["A person has vitamin B deficiency. Why?"] * 3, True),
        (["Is this a good film?", "Was it plan A. Or not?", "A: {} B: {}"], True),
        (["Is this a good film?", "Or A) {} B) {}?"], False),
    ],
)
def test_choices_that_are_not_shown_are_said(
    questions: list[str], is_said: bool, tmp_path: Path
) -> None:
    rows = [
        {"question": f"{i}: {question.format(10 + i, 20 + i)}", "answer": "B"}
        for i, question in enumerate(questions)
    ]
    source = str(written(tmp_path / "mine.jsonl", rows))
    data = {"source": source, "answer_type": "choice"}
    for name, lines in lines_of_starts(data, tmp_path / "sft").items():
        found = [line for line in lines if "show no choices" in line]
        assert len(found) == is_said
        key = "--data_choices" if name == "eval" else "data.choices"
        assert not is_said or (f" of {len(questions)} questions" in found[0] and key in found[0])
    listed = {"choices": "listed", **data}
    written(Path(source), [{**row, "listed": ["x", "y"]} for row in rows])
    for lines in lines_of_starts(listed, tmp_path / "other").values():
        assert [line for line in lines if "show no choices" in line] == []
