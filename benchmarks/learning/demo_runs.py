"""Runs of deploy/configs/demo.toml from one SFT adapter on one server, as the learning benchmarks train them."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from benchmarks.learning.evaluation import correct_answers, greedy_prompt, write_curve
from benchmarks.learning.tasks import BUILT_IN, QUESTIONS_PER_STEP, TASKS
from inference_server.launch.server_process import running_server
from trainer.config.loading import load_config
from trainer.config.sections import TrainConfig
from trainer.data.sources import Record
from trainer.io.metrics_file import read_metrics

CONFIG = Path(__file__).resolve().parents[2] / "deploy/configs/demo.toml"
NUM_STEPS = 12
WARM_UP_STEPS = 2


class Questions(Protocol):
    """Where the questions of the runs come from."""

    @property
    def max_tokens(self) -> int:
        """Of a completion."""

    def source(self, folder: Path, *, seed: int, num_questions: int) -> str:
        """``data.source`` of a run with that seed; a file that has to be made for it is written into the folder."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the runs of a comparison share."""

    model: Path
    sft: Path
    """The adapter that all of them start from."""
    url: str
    """The server's."""
    task: Questions
    num_steps: int

    def config(self, seed: int, folder: Path, *flags: str) -> TrainConfig:
        """The demo's configuration for a seed and a run's folder; the flags set what else differs from the demo."""
        given = {
            "--policy.base_model": self.model,
            "--policy.adapter": self.sft,
            "--server.url": self.url,
            "--data.source": self.task.source(
                folder.parent, seed=seed, num_questions=QUESTIONS_PER_STEP * self.num_steps
            ),
            "--data.seed": seed,
            "--rollout.max_tokens": self.task.max_tokens,
            "--rollout.seed": seed,
            "--run.seed": seed,
            "--run.folder": folder,
            "--run.num_steps": self.num_steps,
            # Checkpoints are not what is measured here, so only the last step writes one.
            "--run.checkpoint_every": self.num_steps,
        }
        words = [str(word) for pair in given.items() for word in pair]
        return load_config(
            TrainConfig,
            ["--config", str(CONFIG), *words, *flags],
            prog="benchmarks/learning/demo_runs.py",
        )

    def train(self, seed: int, folder: Path, *flags: str) -> None:
        """Train a run, unless that is done; one that was cut short starts from the beginning."""
        if len(read_metrics(folder)) == self.num_steps:
            return
        shutil.rmtree(folder, ignore_errors=True)
        train_quietly(self.config(seed, folder, *flags))

    def warm_up(self) -> None:
        """Train a short run that loads everything, so that the first measured run does not have to."""
        short = replace(self, task=TASKS[BUILT_IN], num_steps=WARM_UP_STEPS)
        with tempfile.TemporaryDirectory() as folder:
            short.train(99, Path(folder) / "run")

    def correct(self, adapters: Sequence[Path], records: Sequence[Record]) -> list[str]:
        """Which questions each adapter answers correctly at temperature 0; see `correct_answers`."""
        return correct_answers(adapters, self.url, records, greedy_prompt(self.task.max_tokens))

    def write_curve(self, row: str, seed: int, records: Sequence[Record], path: Path) -> None:
        """Evaluate every version of the trained run beside a curve's file, and write the curve."""
        folder = path.parent / "run"
        seconds = [0.0, *accumulate(metrics["time/step_s"] for metrics in read_metrics(folder))]
        correct = self.correct(sorted((folder / "adapters").glob("policy-??????")), records)
        write_curve(row, seed, path, range(len(seconds)), seconds, correct)


@contextlib.contextmanager
def benchmark_server(model: Path, folder: Path) -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory() as state,
        running_server(
            model=model, log_path=folder / "server.log", flags=["--state-dir", f"{state}/server"]
        ) as server,
    ):
        yield server.url


def train_quietly(config: TrainConfig) -> None:
    """Train, and write what it prints to a log beside the run's folder."""
    from trainer.online.setup import train

    config.run.folder.parent.mkdir(parents=True, exist_ok=True)
    log_path = config.run.folder.with_suffix(".log")
    with log_path.open("w") as log, contextlib.redirect_stdout(log):
        train(config)
