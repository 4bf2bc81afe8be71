"""Callbacks of TRL's trainer: they report progress and metrics, and end the training if a signal asks for it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.console.progress import OnStep
from trainer.console.stop_signals import Stopped, StopRequest
from trainer.console.tracking import metrics_row
from trainer.io.durable import write_file
from trainer.io.paths import read_plain


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Passes TRL's log lines to the progress display and writes them to ``metrics.jsonl``."""

    def __init__(self, metrics: Path, on_step: OnStep, say: Callable[[str], None]):
        """Write to ``metrics``; ``say`` gets the held-out losses."""
        self._metrics = metrics
        self._on_step = on_step
        self._say = say

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop the lines of steps after the checkpoint, because these steps are repeated."""
        lines = read_plain(self._metrics).splitlines(True) if self._metrics.exists() else []
        rows = [(line, metrics_row(line)) for line in lines if line.endswith(b"\n")]
        kept = [line for line, row in rows if row is not None and row["step"] <= state.global_step]
        write_file(self._metrics, b"".join(kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass on the losses."""
        logs = logs or {}
        numbers = {
            name: logs[name]
            for name in ("loss", "learning_rate", "eval_loss")
            if math.isfinite(logs.get(name, math.nan))
        }
        if not numbers:
            return
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": state.global_step, **numbers}) + "\n")
        if "loss" in logs:
            self._on_step(state.global_step, state.max_steps, float(logs["loss"]))
        if "eval_loss" in logs:
            self._say(
                f"sft step {state.global_step}/{state.max_steps} held-out loss {logs['eval_loss']:.4f}"
            )


class StopCallback(TrainerCallback):  # type: ignore[misc]
    """Ends the training after the step in which a signal asked for it, with a checkpoint of that step."""

    def __init__(self, stop: StopRequest):
        """Check ``stop`` after each step."""
        self._stop = stop

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and end, if a signal asked for it."""
        if self._stop.requested:
            control.should_save = control.should_training_stop = True

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Abort the evaluation that precedes the first step; there is nothing to save yet.

        Raises:
            Stopped: A signal asked for it.
        """
        if self._stop.requested and state.global_step == 0:
            raise Stopped
