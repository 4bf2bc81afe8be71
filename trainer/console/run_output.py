"""A run's output: a line per step on the terminal, metrics.jsonl, trackers and the Prometheus endpoint."""

import json
import math
import os
import statistics
import time
from collections import deque
from io import FileIO
from typing import Self

from rich.console import Console

from trainer.config.sections import RunConfig
from trainer.console.metric_catalog import log_line
from trainer.console.metrics_endpoint import MetricsEndpoint
from trainer.console.progress import bar, duration
from trainer.console.terminal import print_line
from trainer.console.trackers import Trackers
from trainer.io.durable import append, write_file
from trainer.io.metrics_file import METRICS_FILE, Metrics, is_late, measured, read_lines
from trainer.io.paths import open_plain, read_plain

_RECENT_STEPS = 20
"""How many of the newest steps the time left is worked out from."""


class RunOutput:
    """Writes a run's metrics; on a terminal it also draws a progress bar."""

    def __init__(self, run: RunConfig, *, first_step: int):
        """Open the outputs; lines of steps after ``first_step``, which a killed run has left, are removed.

        Raises:
            UsageError: ``run.metrics_port`` cannot be listened on, or a line of the metrics is damaged.
        """
        self._endpoint = MetricsEndpoint(run)
        self._path = run.folder / METRICS_FILE
        self._num_steps, self._verbose = run.num_steps, run.verbose
        self._recent_s = deque[float](maxlen=_RECENT_STEPS)
        self.last_step = 0
        """The newest step with a line."""
        self.last_evaluated_step: int | None = None
        """The newest step whose evaluation has a line; None if no evaluation has one."""
        self._newest_before = self._drop_after(first_step)
        self._file = FileIO(self._path, "ab", opener=open_plain)
        self._console = Console()
        self._progress = bar(self._console)
        self._task = self._progress.add_task("PPO", total=run.num_steps, completed=first_step)
        self._trackers = Trackers(run.trackers, run.folder, first_step=first_step, say=self.say)

    def _drop_after(self, first_step: int) -> int:
        """Keep one line of each step up to ``first_step``, in order, and the late evaluations after it.

        Returns:
            The newest step that had a line.
        """
        kept, newest, newest_before = [], None, 0
        for line, row in read_lines(self._path):
            newest_before = max(newest_before, int(row["step"]))
            if not line.endswith(b"\n") or row["step"] > first_step:
                continue
            if row["step"] > self.last_step:
                newest = row
            elif newest is not None and row["step"] == self.last_step and is_late(row):
                newest = newest | row
            else:
                continue
            kept.append(line)
            self._note(row)
        if newest is not None:
            self._endpoint.show(newest, is_new=False)
        content = b"".join(kept)
        if self._path.exists() and content != read_plain(self._path):
            write_file(self._path, content)
        return newest_before

    def _note(self, row: Metrics) -> None:
        self.last_step = int(row["step"])
        if "eval/step" in row:
            self.last_evaluated_step = int(row["eval/step"])

    def __enter__(self) -> Self:
        """Start drawing, and say where the metrics endpoint is."""
        self._progress.start()
        if self.metrics_address is not None:
            self.say(f"metrics for Prometheus: {self.metrics_address}")
        return self

    @property
    def metrics_address(self) -> str | None:
        """Where Prometheus finds the metrics; None without ``run.metrics_port``."""
        return self._endpoint.address

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
        self._endpoint.close()
        self._file.close()
        self._trackers.close()

    def say(self, line: str) -> None:
        """Print one line without disturbing the bar."""
        print_line(self._console, line)

    def record(self, step: int, metrics: Metrics) -> None:
        """Write a step's metrics, with the time of day, without printing them."""
        row = {"step": step, "time": round(time.time(), 3), **metrics}
        # NaN is not JSON; a missing value means the same.
        finite = {name: value for name, value in row.items() if math.isfinite(value)}
        append(self._file, json.dumps(finite).encode() + b"\n", wait=False)
        late = is_late(finite)
        self._endpoint.show(finite, is_new=not late)
        self._note(row)
        is_repeated = step <= self._newest_before and not late
        self._trackers.log(step, measured(finite), is_repeated=is_repeated)

    def flush(self) -> None:
        """Wait until every line is on the disk."""
        os.fsync(self._file.fileno())

    def step(self, step: int, metrics: Metrics) -> None:
        """Record a finished step and print its line."""
        self.record(step, metrics)
        row = {"step": step, **metrics}
        if metrics.get("rollout/num_trained_samples") == 0:
            self.say(
                f"warning: step {step}: no completion has a reward, so nothing was learned: each of "
                "reward.functions returned None for all"
            )
        self._progress.update(self._task, completed=step)
        self._recent_s.append(metrics["time/step_s"])
        line = _step_terms(row, verbose=self._verbose)
        # On a terminal, the bar below has the number of steps and the time left.
        if self._console.is_terminal:
            self.say(f"step {step:>4} {line}")
        else:
            left_s = statistics.fmean(self._recent_s) * (self._num_steps - step)
            left = f", {duration(left_s)} left" if step < self._num_steps else ""
            self.say(f"step {step:>4}/{self._num_steps} {line}{left}")
        if "eval/accuracy" in row:
            self.say(_evaluation_line(row))

    def late_evaluation(self, step: int, metrics: Metrics) -> None:
        """Record and print an evaluation that the line of the newest step does not have."""
        self.record(step, metrics)
        self.say(_evaluation_line(metrics))


def _evaluation_line(row: Metrics) -> str:
    """An evaluation with its interval, and the best one so far, which that of the run's start is not compared with."""
    step = row["eval/step"]
    line = (
        f"held-out accuracy {row['eval/accuracy']:.1%} [{100 * row['eval/low']:.1f}, {100 * row['eval/high']:.1f}] "
        f"of {row['eval/num_questions']:.0f} questions at {f'step {step:.0f}' if step else 'the start'}"
    )
    if "eval/best_step" not in row:
        return line
    return f"{line} (best {row['eval/best_accuracy']:.1%} at step {row['eval/best_step']:.0f})"


def start_line(run: RunConfig, questions_per_step: int, completions_each: int | None = None) -> str:
    """What a run does: its folder, steps and batch; ``completions_each`` is None if they differ by question."""
    each = "" if completions_each is None else f", {completions_each} completions each"
    return f"{run.folder}: {run.num_steps} steps of {questions_per_step} questions{each}"


def _step_terms(row: Metrics, *, verbose: bool) -> str:
    """A step's metrics and times; without a server (train-offline) the parts about the server are left out."""
    metrics = log_line(row, verbose=verbose)
    if not verbose:
        return f"{metrics} {row['time/step_s']:.2f}s"
    times = f"step {row['time/step_s']:.2f}s (update {row['time/update_s']:.2f}s"
    if "version" not in row:
        return f"{metrics} {times})"
    return (
        f"{metrics} {times}, push {row['time/publish_s']:.2f}s): trainer waits "
        f"{row['time/trainer_wait_share']:.0%}, server idle {row['time/server_idle_share']:.0%}"
    )
