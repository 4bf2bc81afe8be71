"""Where a run lives and how long it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from inference_server.wire.settings.model import SettingsModel
from trainer.config.base import MAX_THREADS, Device, Seed

MAX_STEPS = 999_999
"""The names of a step's files and folders have its number in six digits."""
SHORT_FLAGS: Mapping[str, str] = {"verbose": "run.verbose"}
"""Flags without a section, and the keys that they stand for."""
TrackerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class RunConfig(SettingsModel):
    """Where a run lives and how long it is."""

    folder: Path = Path("runs/default")
    """The run's folder."""
    num_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 100
    """Updates of the policy."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 10
    """Steps between checkpoints; the last step always has one."""
    num_checkpoints: Annotated[int, Field(ge=1)] = 3
    """How many of the newest checkpoints to keep, in addition to the first and the best one."""
    num_adapters: Annotated[int, Field(ge=1)] = 20
    """How many of the newest adapters to keep, in addition to the best one; at least rollout.max_staleness + 2.
    `train-offline` needs no such minimum, and also keeps the adapters of the checkpoints that it keeps."""
    evaluate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between evaluations: greedy accuracy of the newest version on held-out questions, measured
    while training goes on. The version that the run begins with is evaluated too, for comparison: it never counts as
    the best. The best version's checkpoint is kept. Null never evaluates."""
    num_evaluation_questions: Annotated[int, Field(ge=1)] = 100
    """Held-out questions of an evaluation."""
    return_to_best: bool = False
    """Go back to the policy, critic and optimizers of the best evaluated step if an evaluation finds that accuracy has
    fallen: the interval of the difference from the best accuracy must lie below 0, at 95 % for all pairs of the run's
    evaluations together. With 200 questions and 20 evaluations this is a fall from 80 to 63 %. Rollouts that were
    already asked for are still trained on. The run never goes back to the policy that it began with, which is never
    the best, nor after its last step: there, `export --best` takes the best version."""
    seed: Seed = 0
    """Seed of the trainer's own randomness."""
    num_threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = None
    """CPU threads of the trainer. One is best if a server on the same CPUs generates at the same time, and all of them if
    the two take turns (`rollout.max_staleness` 0)."""
    device: Device = "auto"
    """Where the trainer computes."""
    verbose: bool = False
    """Print every term of a step's line instead of those that fit 80 columns (`--verbose` for short). All metrics are
    in metrics.jsonl anyway."""
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where the metrics go in addition to metrics.jsonl: `tensorboard`, `trackio`, `wandb`, `mlflow`. The last three
    need the extras of these names. All write into the run's folder, unless their own environment variables say
    otherwise. `sft` takes the same ones, unless `--trackers` names others."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of the Prometheus endpoint /metrics with the newest step's metrics. Null opens none, 0 takes a free
    port."""
    metrics_host: str = "127.0.0.1"
    """Address that the Prometheus endpoint listens on; the endpoint asks for no key."""

    @model_validator(mode="after")
    def _returns_where_it_evaluates(self) -> Self:
        if self.return_to_best and self.evaluate_every is None:
            raise ValueError("run.return_to_best needs evaluations: set run.evaluate_every too")
        return self
