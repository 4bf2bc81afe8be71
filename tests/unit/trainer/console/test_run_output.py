"""What a run writes about itself, and what of it survives being killed and resumed."""

import json
import math
import re
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.config.sections import RunConfig
from trainer.console.run_output import RunOutput
from trainer.errors import UsageError
from trainer.io.metrics_file import read_metrics, read_with_late

METRICS = {
    "version": 3.0,
    "reward/mean": 0.25,
    "reward/correct": 0.5,
    "ppo/reference_kl": 0.01,
    "ppo/clip_fraction": 0.0,
    "ppo/explained_variance": -1.0,
    "ppo/entropy": 1.5,
    "ppo/logprob_mismatch": 1e-6,
    "rollout/lag": 1,
    "rollout/completion_tokens_mean": 41.7,
    "rollout/truncated": 0.125,
    "time/wait_s": 0.1,
    "time/update_s": 0.2,
    "time/publish_s": 0.3,
    "time/step_s": 0.6,
    "time/trainer_wait_share": 0.62,
    "time/server_idle_share": 0.2,
}


NOW = 1_800_000_000.25
TIMED = {"time": NOW, **METRICS}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def track(folder: Path, *, first_step: int, steps: list[int], **changes: float) -> None:
    with RunOutput(RunConfig(folder=folder), first_step=first_step) as output:
        for step in steps:
            output.step(step, METRICS | changes)


def steps_of(folder: Path) -> list[float]:
    return [row["step"] for row in read_metrics(folder)]


def test_every_step_is_a_line_of_json_on_disk_at_once(tmp_path: Path) -> None:
    with RunOutput(RunConfig(folder=tmp_path), first_step=0) as output:
        output.step(1, METRICS)
        assert read_metrics(tmp_path) == [{"step": 1, **TIMED}]
        output.step(2, METRICS | {"reward/mean": 0.75})
        text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [
        {"step": 1, **TIMED},
        {"step": 2, **TIMED, "reward/mean": 0.75},
    ]


def test_a_resumed_run_takes_back_the_steps_that_it_will_do_again(tmp_path: Path) -> None:
    track(tmp_path, first_step=0, steps=[1, 2, 3, 4])
    track(tmp_path, first_step=2, steps=[3], **{"reward/mean": 9.0})
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["reward/mean"] for row in rows] == [0.25, 0.25, 9.0]


@pytest.mark.parametrize("torn", ['{"step": 3, "reward/me', '{"step": 3', "{", "\0\0\0"])
def test_a_torn_last_line_is_left_out_and_overwritten(torn: str, tmp_path: Path) -> None:
    track(tmp_path, first_step=0, steps=[1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert steps_of(tmp_path) == [1, 2]
    track(tmp_path, first_step=2, steps=[3])
    assert steps_of(tmp_path) == [1, 2, 3]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_run_without_a_file_has_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_left_out(value: float, tmp_path: Path) -> None:
    track(tmp_path, first_step=0, steps=[1], **{"ppo/entropy": value})
    (row,) = read_metrics(tmp_path)
    assert {**row, "ppo/entropy": METRICS["ppo/entropy"]} == {"step": 1, **TIMED}
    assert "ppo/entropy" not in row
    text = (tmp_path / "metrics.jsonl").read_text()
    assert not {"NaN", "Infinity"} & set(text.replace(":", " ").replace(",", " ").split())


def test_a_step_is_a_line_of_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    with RunOutput(RunConfig(folder=tmp_path), first_step=0) as output:
        output.step(1234, METRICS | {"reward/mean": -1.25, "ppo/reference_kl": 12.5})
        output.step(1235, METRICS | {"time/step_s": 1234.5, "ppo/explained_variance": math.nan})
    # Between the lines the bar is drawn.
    first, second = re.findall(r"step \d{4} .*?s(?=\r?\n)", capsys.readouterr().out)
    assert first == "step 1234 reward -1.250 correct 50.0% kl 12.500 clip 0.0% ev -1.00 0.60s"
    assert max(len(first), len(second)) < 80


@pytest.mark.parametrize(
    ("num_steps", "ends"),
    [
        (2, ["4.00s, 4 s left", "8.00s"]),
        (2000, ["4.00s, 2 h 13 min left", "8.00s, 3 h 20 min left"]),
    ],
)
def test_a_step_in_a_log_says_of_how_many_it_is_and_how_long_the_rest_takes(
    num_steps: int, ends: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunOutput(RunConfig(folder=tmp_path, num_steps=num_steps), first_step=0) as output:
        for step in (1, 2):
            output.step(step, METRICS | {"time/step_s": 4.0 * step})
    terms = "reward +0.250 correct 50.0% kl 0.010 clip 0.0% ev -1.00"
    assert capsys.readouterr().out.splitlines() == [
        f"step {step:>4}/{num_steps} {terms} {end}" for step, end in enumerate(ends, 1)
    ]


def test_a_verbose_step_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunOutput(RunConfig(folder=tmp_path, verbose=True), first_step=0) as output:
        output.say("serving [version] 3")
        output.step(1, METRICS)
    said, line = capsys.readouterr().out.splitlines()
    assert said == "serving [version] 3"
    for fragment in (
        *("step    1", "version 3 ", "reward +0.250", "correct 50.0%", "lag 1"),
        *("tokens 42", "truncated 12.5%"),
        *("trainer waits 62%", "server idle 20%"),
    ):
        assert fragment in line


@pytest.mark.parametrize(
    ("step", "best", "line"),
    [
        (
            *(4, {"eval/best_accuracy": 0.5, "eval/best_step": 2}),
            "held-out accuracy 25.0% [12.5, 43.7] of 24 questions at step 4 (best 50.0% at step 2)",
        ),
        (0, {}, "held-out accuracy 25.0% [12.5, 43.7] of 24 questions at the start"),
    ],
)
def test_an_evaluation_is_said_with_its_interval_after_the_line_of_its_step(
    step: int,
    best: dict[str, float],
    line: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = {
        "eval/accuracy": 0.25,
        "eval/low": 0.125,
        "eval/high": 0.4367,
        "eval/num_questions": 24,
        "eval/step": step,
        "eval/version": 12,
    }
    with RunOutput(RunConfig(folder=tmp_path), first_step=0) as output:
        output.step(5, METRICS | measured | best)
    of_step, said = capsys.readouterr().out.splitlines()
    assert of_step.startswith("step    5")
    assert said == line


EVALUATION = {
    "eval/accuracy": 0.25,
    "eval/low": 0.1,
    "eval/high": 0.5,
    "eval/num_questions": 20,
    "eval/step": 2,
    "eval/version": 12,
    "eval/best_accuracy": 0.5,
    "eval/best_step": 1,
}


@pytest.mark.parametrize(("first_step", "is_kept"), [(3, True), (2, True), (1, False)])
def test_an_evaluation_after_its_steps_line_has_a_line_of_its_own(
    first_step: int, is_kept: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunOutput(RunConfig(folder=tmp_path), first_step=0) as output:
        output.step(1, METRICS)
        output.step(2, METRICS | EVALUATION | {"eval/step": 1, "eval/accuracy": 0.5})
        capsys.readouterr()
        output.late_evaluation(2, EVALUATION)
    said = capsys.readouterr().out
    line = "held-out accuracy 25.0% [10.0, 50.0] of 20 questions at step 2 (best 50.0% at step 1)"
    assert said == f"{line}\n"
    assert steps_of(tmp_path) == [1, 2]
    late = {"step": 2, "time": NOW, **EVALUATION}
    assert read_with_late(tmp_path)[1] == [late]
    run = RunConfig(folder=tmp_path, metrics_port=0)
    with RunOutput(run, first_step=first_step) as output:
        assert output.last_step == min(first_step, 2)
        assert output.last_evaluated_step == (2 if is_kept else None)
        shown = scraped(output)
        output.step(first_step + 1, METRICS)
    assert shown.get("regime_w_trainer_eval_step") == (2 if is_kept else None)
    assert shown["regime_w_trainer_reward_mean"] == METRICS["reward/mean"]
    assert read_with_late(tmp_path)[1] == [late] * is_kept
    assert steps_of(tmp_path) == [*range(1, min(first_step, 2) + 1), first_step + 1]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(e.step, e.value) for e in events.Scalars("eval/accuracy")] if is_kept else []
    assert found == [(2, 0.5), (2, 0.25)] * is_kept


def test_tensorboard_gets_every_number_and_forgets_what_is_done_again(tmp_path: Path) -> None:
    track(tmp_path, first_step=0, steps=[1, 2, 3])
    track(tmp_path, first_step=1, steps=[2], **{"reward/mean": 9.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(METRICS)
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 0.25), (2, 9.0)]


def scraped(output: RunOutput) -> dict[str, float]:
    assert output.metrics_address is not None
    with urllib.request.urlopen(output.metrics_address) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_prometheus_finds_the_newest_steps_numbers(tmp_path: Path) -> None:
    run = RunConfig(folder=tmp_path, num_steps=9, metrics_port=0)
    with RunOutput(run, first_step=0) as output:
        before = scraped(output)
        output.step(1, METRICS | EVALUATION | {"eval/accuracy": 0.5})
        output.step(2, METRICS | {"ppo/entropy": math.nan, "reward/mean": 0.75})
        after = scraped(output)
    assert before == {
        "regime_w_trainer_num_steps": 9,
        "regime_w_trainer_last_step_timestamp_seconds": 0,
    }
    assert after["regime_w_trainer_step"] == 2
    assert after["regime_w_trainer_reward_mean"] == 0.75
    # Not measured in step 2: what was measured last stays.
    assert after["regime_w_trainer_eval_accuracy"] == 0.5
    assert after["regime_w_trainer_ppo_entropy"] == METRICS["ppo/entropy"]
    assert after["regime_w_trainer_last_step_timestamp_seconds"] > 0
    assert len(after) == len(METRICS) + len(EVALUATION) + 3


def test_arms_whose_names_prometheus_writes_alike_end_no_run(tmp_path: Path) -> None:
    run = RunConfig(folder=tmp_path, metrics_port=0)
    with RunOutput(run, first_step=0) as output:
        output.step(1, METRICS | {"arm/cot-1": 0.25, "arm/cot_1": 0.5})
        assert scraped(output)["regime_w_trainer_arm_cot_1"] == 0.5


def test_a_resumed_run_shows_where_it_was(tmp_path: Path) -> None:
    track(tmp_path, first_step=0, steps=[1, 2, 3])
    with RunOutput(RunConfig(folder=tmp_path, metrics_port=0), first_step=2) as output:
        shown = scraped(output)
    assert shown["regime_w_trainer_step"] == 2
    assert shown["regime_w_trainer_last_step_timestamp_seconds"] == 0


def test_a_taken_metrics_port_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"run.metrics_port {port} on 127.0.0.1"):
            RunOutput(RunConfig(folder=tmp_path, metrics_port=port), first_step=0)


def test_nothing_listens_unless_asked_to(tmp_path: Path) -> None:
    with RunOutput(RunConfig(folder=tmp_path), first_step=0) as output:
        assert output.metrics_address is None
