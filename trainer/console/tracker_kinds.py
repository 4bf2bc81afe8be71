"""Writes the metrics of a run or SFT to Trackio, W&B, MLflow or TensorBoard; see `trainer.console.trackers`."""

import os
import re
import secrets
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from trainer.errors import UsageError
from trainer.io.durable import write_file
from trainer.io.kept_settings import CONFIG_FILE, flat_settings, kept_tables
from trainer.io.paths import read_plain

TRACKER_ID_FILE = "tracker-id.txt"
"""The file in a run's folder with the id that the run has in trackers."""

_RUN_ID = re.compile(r"[0-9a-f]{16}")
_PROJECT = "regime-w"
_MAX_PARAMS = 100
"""Most settings in one request to MLflow."""
_MAX_PARAM_CHARS = 500


class TrackedRun(Protocol):
    """A run in a tracker; constructing it loads the tracker's library."""

    def begin(self) -> None:
        """Begin the run in the tracker, or go on with it after a resume."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a step's metrics, all finite."""

    def close(self) -> None:
        """Write what is pending."""


class TensorBoard:
    """Event files, in which steps that are repeated replace their first version."""

    def __init__(self, folder: Path, first_step: int):
        """Load the library."""
        # Not imported with this module: torch takes seconds to import, and trackers' names are checked before that.
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        self._make = partial(SummaryWriter, folder / "tensorboard", purge_step=first_step + 1)

    def begin(self) -> None:
        """See `TrackedRun`."""
        self._writer = self._make()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `TrackedRun`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `TrackedRun`."""
        self._writer.close()


class Trackio:
    """A run of the project regime-w, in a SQLite file."""

    def __init__(self, folder: Path):
        """Load the library."""
        # The library reads it when it is imported.
        os.environ.setdefault("TRACKIO_DIR", str(folder.resolve() / "trackio"))
        import trackio  # noqa: PLC0415 - an optional dependency, like the two below

        self._init, self._folder = trackio.init, folder
        self._id = run_id(folder)

    def begin(self) -> None:
        """See `TrackedRun`."""
        self._run = self._init(
            project=_PROJECT,
            name=_name(self._folder, self._id),
            config=_settings(self._folder),
            resume="allow",
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `TrackedRun`."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See `TrackedRun`."""
        self._run.finish()


class WandB:
    """A run of W&B, offline unless ``WANDB_MODE`` says otherwise; each start adds a folder to upload."""

    def __init__(self, folder: Path):
        """Load the library."""
        import wandb  # noqa: PLC0415

        self._wandb, self._folder = wandb, folder
        self._id = run_id(folder)

    def begin(self) -> None:
        """See `TrackedRun`."""
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=_name(self._folder, self._id),
            id=self._id,
            dir=self._folder,
            mode=mode,
            resume=None if mode == "offline" else "allow",
            config=_settings(self._folder),
            settings=self._wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `TrackedRun`."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See `TrackedRun`."""
        self._run.finish()


class MLflow:
    """A run of MLflow, in a SQLite file unless ``MLFLOW_TRACKING_URI`` says otherwise."""

    def __init__(self, folder: Path):
        """Load the library."""
        from mlflow import MlflowClient  # noqa: PLC0415
        from mlflow.entities import Metric, Param  # noqa: PLC0415

        self._client_of, self._metric, self._param = MlflowClient, Metric, Param
        self._folder = folder
        self._id = run_id(folder)

    def begin(self) -> None:
        """See `TrackedRun`."""
        local = f"sqlite:///{self._folder.resolve() / 'mlflow.db'}"
        self._client = self._client_of(os.environ.get("MLFLOW_TRACKING_URI") or local)
        found = self._client.get_experiment_by_name(_PROJECT)
        experiment = (
            self._client.create_experiment(_PROJECT) if found is None else found.experiment_id
        )
        known = self._client.search_runs([experiment], f"tags.run = '{self._id}'")
        if known:
            self._run_id = known[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        created = self._client.create_run(
            experiment, run_name=_name(self._folder, self._id), tags={"run": self._id}
        )
        self._run_id = created.info.run_id
        params = [
            self._param(key, str(value)[:_MAX_PARAM_CHARS])
            for key, value in _settings(self._folder).items()
        ]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + _MAX_PARAMS])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `TrackedRun`."""
        now_ms = int(1000 * time.time())
        self._client.log_batch(
            self._run_id,
            metrics=[self._metric(name, value, now_ms, step) for name, value in metrics.items()],
        )

    def close(self) -> None:
        """See `TrackedRun`."""
        self._client.set_terminated(self._run_id)


def run_id(folder: Path) -> str:
    """The id of a run in trackers: it tells runs of the same name or folder apart, and finds a resumed run again.

    It is random, and kept in the run's folder.

    Args:
        folder: The run's folder, which exists.

    Raises:
        UsageError: The file holds something else.
    """
    path = folder / TRACKER_ID_FILE
    kept = read_plain(path).decode(errors="replace").strip() if path.exists() else ""
    if _RUN_ID.fullmatch(kept):
        return kept
    if kept:
        raise UsageError(
            f"{path}: damaged; remove it, and trackers will show what follows as another run"
        )
    made = secrets.token_hex(8)
    write_file(path, f"{made}\n".encode())
    return made


def _name(folder: Path, identity: str) -> str:
    return f"{folder.resolve().name}-{identity[:6]}"


def _settings(folder: Path) -> dict[str, Any]:
    """The run's settings, as dotted keys to values; empty if its folder has none."""
    try:
        return flat_settings(kept_tables(folder / CONFIG_FILE))
    except FileNotFoundError:
        return {}
