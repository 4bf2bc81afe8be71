"""Trackers beside metrics.jsonl: what the real ones hold, and what happens when one cannot be used."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from trainer.config.run import RunConfig, TrackerName
from trainer.console import trackers
from trainer.console.run_output import RunOutput
from trainer.console.tracker_kinds import TRACKER_ID_FILE, run_id
from trainer.console.trackers import require_trackers
from trainer.errors import UsageError
from trainer.io.installed import is_installed
from trainer.io.metrics_file import read_metrics

Rows = dict[int, dict[str, float]]
"""A step's metrics by step."""


def rows_of_file(run: Path) -> Rows:
    return {int(row.pop("step")): row for row in read_metrics(run)}


def record(run: RunConfig, steps: range, *, first_step: int) -> None:
    with RunOutput(run, first_step=first_step) as output:
        for step in steps:
            output.record(step, {"reward/mean": step / 8, "rollout/lag": 1, "ppo/kl": float("nan")})


# --- the real ones, where they are installed --------------------------------------------------


def in_trackio(run: Path) -> Rows:
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("regime-w")
    logs = SQLiteStorage.get_logs("regime-w", name)
    assert len(logs) == len({log["step"] for log in logs})
    return {log["step"]: {k: v for k, v in log.items() if "/" in k} for log in logs}


def in_mlflow(run: Path) -> Rows:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("regime-w")
    (found,) = client.search_runs([experiment.experiment_id])
    rows: Rows = {}
    for name in found.data.metrics:
        history = client.get_metric_history(found.info.run_id, name)
        assert len(history) == len({metric.step for metric in history})
        for metric in history:
            rows.setdefault(metric.step, {})[name] = metric.value
    return rows


def in_wandb(run: Path) -> Rows:
    from wandb.proto.wandb_internal_pb2 import Record

    rows: Rows = {}
    files = list(run.glob("wandb/offline-run-*/*.wandb"))
    assert len({path.name for path in files}) == 1
    for path in files:
        for data in records_of(path.read_bytes()):
            found = Record.FromString(data)
            if found.WhichOneof("record_type") == "history":
                items = {i.key or "/".join(i.nested_key): i.value_json for i in found.history.item}
                step = int(items["_step"])
                assert step not in rows
                rows[step] = {k: json.loads(v) for k, v in items.items() if "/" in k}
    return rows


def records_of(data: bytes) -> Iterator[bytes]:
    """The records of W&B's file, which is LevelDB's log behind a header of seven bytes."""
    block, header = 32_768, 7
    position, begun = header, b""
    while position + header <= len(data):
        if block - position % block < header:
            position += block - position % block
            continue
        length, kind = (
            int.from_bytes(data[position + 4 : position + 6], "little"),
            data[position + 6],
        )
        begun += data[position + header : position + header + length]
        position += header + length
        if kind in (1, 4):  # whole, or the last part
            yield begun
            begun = b""


@pytest.mark.filterwarnings("default")
def test_a_run_with_all_trackers_offline_has_in_each_what_metrics_jsonl_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held_by: dict[TrackerName, Callable[[Path], Rows]] = {
        "trackio": in_trackio,
        "mlflow": in_mlflow,
        "wandb": in_wandb,
    }
    for name in held_by:
        if not is_installed(name):
            pytest.skip(f"{name} is not installed: pip install 'regime-w[{name}]'")
    for variable in ("TRACKIO_DIR", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        # What a tracker sets itself is taken back in the end.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setattr(trackers, "_CLOSE_S", 500.0)  # However busy the machine is.
    (tmp_path / "config.toml").write_text("[ppo]\nlearning_rate = 0.5\n")
    run = RunConfig(folder=tmp_path, trackers=("tensorboard", *held_by))
    record(run, range(1, 4), first_step=0)
    # As a killed run resumes: step 3 is done again.
    record(run, range(3, 6), first_step=2)
    assert "warning" not in capsys.readouterr().out
    rows = rows_of_file(tmp_path)
    assert sorted(rows) == [1, 2, 3, 4, 5]
    for name, held in held_by.items():
        assert held(tmp_path) == rows, name


# --- which run of the tracker it is ------------------------------------------------------------


def test_a_run_that_resumes_keeps_its_id_and_a_new_one_in_the_same_folder_has_another(
    tmp_path: Path,
) -> None:
    first = run_id(tmp_path)
    assert run_id(tmp_path) == first
    (tmp_path / TRACKER_ID_FILE).unlink()
    assert run_id(tmp_path) != first


@pytest.mark.parametrize("content", [b"\xff\xfe", b"../other\n", b"0123456789abcde"])
def test_a_damaged_id_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / TRACKER_ID_FILE).write_bytes(content)
    with pytest.raises(UsageError, match=r"tracker-id\.txt: damaged; remove it"):
        run_id(tmp_path)


# --- one that cannot be used ------------------------------------------------------------------


class Faulty:
    """A tracker that fails in the named call."""

    def __init__(self, fails_in: str):
        self.fails_in = fails_in
        self.steps: list[int] = []

    def make(self, folder: Path, first_step: int) -> "Faulty":
        self._fail_in("make")
        return self

    def begin(self) -> None:
        self._fail_in("begin")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(step)
        self._fail_in("log")

    def close(self) -> None:
        self._fail_in("close")

    def _fail_in(self, call: str) -> None:
        if self.fails_in == call:
            raise OSError(28, "No space left on device")
        if self.fails_in == f"exit in {call}":
            raise SystemExit(1)


@pytest.mark.parametrize("call", ["make", "begin", "log", "close", "exit in make", "exit in log"])
def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = Faulty(call)
    monkeypatch.setitem(trackers.TRACKERS, "wandb", faulty.make)
    record(RunConfig(folder=tmp_path, trackers=("wandb",)), range(1, 4), first_step=0)
    assert sorted(rows_of_file(tmp_path)) == [1, 2, 3]
    assert faulty.steps == ([] if "make" in call or call == "begin" else [1, 2, 3])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: trackers: wandb fails and may lack steps (")
    assert ("No space left" in line) == ("exit" not in call)


def test_a_tracker_that_hangs_delays_no_step_and_is_left_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    goes_on = threading.Event()

    class Hanging(Faulty):
        def log(self, step: int, metrics: Mapping[str, float]) -> None:
            goes_on.wait()

    monkeypatch.setitem(trackers.TRACKERS, "mlflow", Hanging("").make)
    monkeypatch.setattr(trackers, "_CLOSE_S", 0.0)
    record(RunConfig(folder=tmp_path, trackers=("mlflow",)), range(1, 4), first_step=0)
    goes_on.set()
    assert sorted(rows_of_file(tmp_path)) == [1, 2, 3]
    assert "mlflow fails and may lack steps (did not finish within 0 s)" in capsys.readouterr().out


def test_of_a_tracker_that_hangs_so_many_steps_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    has_one, goes_on = threading.Event(), threading.Event()

    class Hanging(Faulty):
        def log(self, step: int, metrics: Mapping[str, float]) -> None:
            has_one.set()
            goes_on.wait()
            super().log(step, metrics)

    hanging = Hanging("")
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", hanging.make)
    monkeypatch.setattr(trackers, "_MAX_WAITING", 3)
    with RunOutput(RunConfig(folder=tmp_path, trackers=("mlflow",)), first_step=0) as output:
        for step in range(1, 100):
            output.record(step, {"reward/mean": 1.0})
            has_one.wait()
        goes_on.set()
    assert sorted(rows_of_file(tmp_path)) == list(range(1, 100))
    assert hanging.steps == [1, 2, 3, 4]  # the one that it hangs in, and three that wait
    assert "mlflow fails and may lack steps (3 steps behind)" in capsys.readouterr().out


def test_no_tracker_is_a_choice_too(tmp_path: Path) -> None:
    record(RunConfig(folder=tmp_path, trackers=()), range(1, 3), first_step=0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_with_its_extra(
    name: TrackerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: set[str] = set()
    monkeypatch.setattr(trackers, "is_installed", installed.__contains__)
    with pytest.raises(
        UsageError, match=rf"run\.trackers: {name} .* pip install 'regime-w\[{name}\]'"
    ):
        require_trackers(("tensorboard", name), field="run.trackers")
    installed.add(name)
    require_trackers(("tensorboard", name), field="run.trackers")
