"""Held-out questions are those that were named; built-in ones never replace them."""

from pathlib import Path
from typing import Any, get_args

import pytest

from trainer.commands import early_checks
from trainer.config.data import BuiltInSource
from trainer.config.sections import DataConfig, TrainConfig
from trainer.data.held_out import is_same_source, require_held_out
from trainer.data.source_names import GENERATED
from trainer.errors import UsageError

MINE, TEST = {"source": "mine.jsonl"}, {"evaluation_source": "test.jsonl"}
BUILT_IN = {"evaluation_source": "word-problems"}


@pytest.mark.parametrize(
    ("data", "held_out"),
    [
        ({}, "word-problems"),
        ({"source": "one-step-problems"}, "word-problems"),
        ({"source": "word-problems#train"}, "word-problems"),
        ({"evaluation_source": "one-step-problems"}, "one-step-problems"),
        (MINE, None),
        ({**MINE, **TEST}, "test.jsonl"),
        ({**MINE, **BUILT_IN}, "word-problems"),
        (BUILT_IN, "word-problems"),
    ],
)
def test_the_default_is_for_built_in_sources(data: dict[str, Any], held_out: str | None) -> None:
    assert DataConfig.model_validate(data).held_out_source == held_out


def test_built_in_sources_are_those_of_the_generator() -> None:
    assert set(get_args(BuiltInSource)) == set(GENERATED)


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("mine.jsonl", "to mine.jsonl#held_out with data.source = mine.jsonl#train"),
        ("mine.jsonl#train", "set it, such as to mine.jsonl#held_out"),
        ("openai/gsm8k:main", "to openai/gsm8k:main, whose test split is then asked"),
        ("a/b:c:train", "to a/b:c:train#held_out with data.source = a/b:c:train#train"),
    ],
)
def test_a_source_without_held_out_questions_is_refused_with_a_fix(
    source: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").touch()
    with pytest.raises(UsageError, match=r"data\.evaluation_source: run\.evaluate_every") as raised:
        require_held_out(DataConfig(source=source), "run.evaluate_every")
    assert fix in str(raised.value)
    assert "\n" not in str(raised.value)
    assert require_held_out(DataConfig(source="word-problems#train"), "eval") == "word-problems"


@pytest.mark.parametrize(
    ("data", "evaluate_every", "is_refused"),
    [(MINE, 2, True), (MINE, None, False), ({**MINE, **BUILT_IN}, 2, False), ({}, 2, False)],
)
def test_a_new_run_that_evaluates_needs_a_name(
    data: dict[str, Any],
    evaluate_every: int | None,
    is_refused: bool,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").touch()
    given = {"policy": {"base_model": str(tiny_base)}, "data": data}
    run = {"folder": "run", "evaluate_every": evaluate_every}
    config = TrainConfig.model_validate({**given, "run": run})
    if is_refused:
        with pytest.raises(UsageError, match=r"run\.evaluate_every needs held-out questions"):
            early_checks.check_online(config)
        # A run that was begun may be finished, and then reads nothing.
        Path("run/checkpoints/step-000000").mkdir(parents=True)
    early_checks.check_online(config)


def test_a_file_has_several_names() -> None:
    assert is_same_source("./x/../a.jsonl#held_out", "a.jsonl#held_out")
    assert not is_same_source("a.jsonl", "a.jsonl#held_out")
    assert is_same_source("word-problems", "word-problems#held_out")
    assert not is_same_source("word-problems", "word-problems#train")
    assert not is_same_source("word-problems", "one-step-problems")
