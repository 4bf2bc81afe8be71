"""The head of the page: what the run is, where it stands, how long it took."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from trainer.config.sections import OfflineRunConfig
from trainer.errors import DataError
from trainer.io.kept_settings import as_toml
from trainer.report.facts import kind_of, progress_of, setup_of
from trainer.report.run_record import read_run
from trainer.run_state.journal import Journal

SETTINGS = """
[run]
num_steps = 12
[policy]
base_model = "models/tiny-base"
[data]
source = "mine.jsonl"
[ppo]
learning_rate = 5e-6
"""


OFFLINE = "PPO with Regime W from collected rollouts"


def write(run: Path, *rows: dict[str, Any], settings: str | None = SETTINGS) -> None:
    lines = [
        json.dumps({"step": step, "time/step_s": 2.0, **row}) for step, row in enumerate(rows, 1)
    ]
    (run / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    if settings is not None:
        (run / "config.toml").write_text(settings)


def progress(run: Path, *, live: bool = False) -> list[str]:
    return progress_of(read_run(run, with_steps=False), live=live)


def test_a_run_is_running_then_stopped_then_finished(tmp_path: Path) -> None:
    write(tmp_path, {}, {"time/step_s": 4.0}, {"version": 4})
    with Journal(tmp_path):
        found = ["step 3 of 12", "running", "last served version 4", "8 s in all, 2.7 s a step"]
        assert progress(tmp_path) == found
        assert progress(tmp_path, live=True) == [*found, "about 24 s left"]
    assert progress(tmp_path, live=True)[1] == "not running, stopped before its last step"
    write(tmp_path, *[{}] * 12)
    assert progress(tmp_path, live=True)[:2] == ["step 12 of 12", "finished"]


@pytest.mark.parametrize(
    "impossible",
    [
        {"time": 1e18},
        {"time": -1e13},
        {"time/step_s": 1e308},
        {"version": 1e308},
        {"reward/mean": -1e308},
    ],
)
def test_a_line_with_an_impossible_time_or_number_is_damaged(
    impossible: dict[str, float], tmp_path: Path
) -> None:
    write(tmp_path, {}, impossible, {})
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: not a line of metrics; remove it"):
        progress(tmp_path)
    # The newest line counts as torn.
    write(tmp_path, {}, impossible)
    assert progress(tmp_path)[0] == "step 1 of 12"


def test_a_failed_step_is_named_until_the_run_has_passed_it(tmp_path: Path) -> None:
    write(tmp_path, {}, {})
    (tmp_path / "failed/step-000003").mkdir(parents=True)
    (tmp_path / "failed/step-000003/error.txt").write_text("the loss is nan\n")
    assert progress(tmp_path)[1] == "not running: step 3 failed, the loss is nan"
    write(tmp_path, {}, {}, {})
    assert "failed" not in " ".join(progress(tmp_path))


def test_the_time_in_all_is_without_pauses_and_the_end_is_said(tmp_path: Path) -> None:
    now = 1798034700.0
    write(tmp_path, {"time": now - 7200}, {"time": now - 10}, {"time": now})
    assert progress(tmp_path)[-1] == "newest step ended 2026-12-23 14:05 UTC"
    assert progress(tmp_path)[-2] == "6 s in all, 2 s a step"


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 2}, {"step": 3, "time/step_s": 4.0}],
        # A step that is computed again after its metrics were lost has no time of its own.
        [{"step": 1, "time/step_s": None}, {"step": 2}, {"step": 3, "time/step_s": 4.0}],
    ],
)
def test_where_steps_lack_their_time_there_is_no_time_in_all(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    write(tmp_path, *rows)
    text = (tmp_path / "metrics.jsonl").read_text().replace(', "time/step_s": null', "")
    (tmp_path / "metrics.jsonl").write_text(text)
    assert progress(tmp_path) == ["step 3 of 12", "3 s a step"]


def test_a_run_with_more_steps_than_its_settings_ask_for_is_finished_at_its_own(
    tmp_path: Path,
) -> None:
    write(tmp_path, *[{}] * 13)
    with Journal(tmp_path):
        pass
    assert progress(tmp_path)[:2] == ["step 13", "finished"]


@pytest.mark.parametrize(
    "settings", [None, "[ppo]\nno_such_key = 1\n", "[ppo]\n[run]\nnum_steps = 0\n"]
)
def test_without_readable_settings_it_is_not_known_whether_the_run_stopped_early(
    settings: str | None, tmp_path: Path
) -> None:
    write(tmp_path, {}, {}, settings=settings)
    with Journal(tmp_path):
        assert progress(tmp_path)[:2] == ["step 2", "running"]
    assert progress(tmp_path)[:2] == ["step 2", "not running"]


def test_the_steps_of_lost_metrics_are_those_of_the_newest_checkpoint(tmp_path: Path) -> None:
    write(tmp_path)
    with Journal(tmp_path):
        pass
    (tmp_path / "checkpoints/step-000000").mkdir(parents=True)
    assert progress(tmp_path) == [
        "no step finished yet",
        "not running, stopped before its last step",
    ]
    (tmp_path / "checkpoints/step-000007").mkdir()
    lost = "its metrics are lost"
    found = ["step 7 of 12", lost, "not running, stopped before its last step"]
    assert progress(tmp_path) == found
    (tmp_path / "checkpoints/step-000012").mkdir()
    assert progress(tmp_path) == ["step 12 of 12", lost, "finished"]


def test_what_is_not_recorded_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"time/step_s": 1.0}, settings=None)
    run = read_run(tmp_path)
    assert progress_of(run, live=True) == ["step 1", "1 s in all, 1 s a step"]
    assert (kind_of(run), setup_of(run)) == ("PPO with Regime W", [])
    (tmp_path / "metrics.jsonl").unlink()
    assert progress(tmp_path) == ["no step finished yet"]


def test_the_setup_names_model_questions_and_learning_rate(tmp_path: Path) -> None:
    write(tmp_path, {})
    found = ["base models/tiny-base", "questions mine.jsonl", "learning rate 5e-06"]
    assert setup_of(read_run(tmp_path)) == found


def test_a_run_of_train_offline_is_as_long_as_its_file(tmp_path: Path) -> None:
    config = OfflineRunConfig.model_validate(
        {"rollouts": "r.jsonl", "offline": {"num_epochs": 2}, "rollout": {"questions_per_step": 4}}
    )
    write(tmp_path, {}, {}, settings=as_toml(config))
    (tmp_path / "rollouts.json").write_text(json.dumps(["digest"] * 5))
    run = read_run(tmp_path)
    assert kind_of(run) == OFFLINE
    assert "rollouts r.jsonl" in setup_of(run)
    assert progress_of(run, live=False)[0] == f"step 2 of {math.ceil(5 * 2 / 4)}"
    (tmp_path / "rollouts.json").unlink()
    assert progress(tmp_path)[0] == "step 2"


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (SETTINGS, "Online PPO with Regime W"),
        ("[ppo]\nno_such_key = 1\n", "Online PPO with Regime W"),
        ('rollouts = "r.jsonl"\n[ppo]\nno_such_key = 1\n', OFFLINE),
        ('rollouts = "r.jsonl"\n[ppo]\n[offline]\nno_such_key = 1\n', OFFLINE),
        ("[run]\nno_such_key = 1\n", "PPO with Regime W"),
    ],
)
def test_the_kind_of_a_run_is_known_from_settings_that_cannot_be_read_too(
    settings: str, kind: str, tmp_path: Path
) -> None:
    write(tmp_path, {}, settings=settings)
    run = read_run(tmp_path)
    assert kind_of(run) == kind
    is_readable = settings == SETTINGS
    assert (run.config is not None, bool(setup_of(run))) == (is_readable, is_readable)
    assert progress_of(run, live=False)[0] == ("step 1 of 12" if is_readable else "step 1")
