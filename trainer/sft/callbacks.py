"""Callbacks of TRL's trainer: they report progress and metrics, and end the training at a signal or if it diverges."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.console.progress import OnStep
from trainer.console.stop_signals import Stopped, StopRequest
from trainer.errors import NonFiniteError
from trainer.io.durable import write_file
from trainer.io.metrics_file import metrics_row
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
        numbers = {n: logs[n] for n in ("loss", "learning_rate", "eval_loss") if n in logs}
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


class FiniteCallback(TrainerCallback):  # type: ignore[misc]
    """Ends the training with an error if it diverges, before the step's checkpoint or the adapter is saved."""

    def __init__(self, learning_rate: float, dtype: str):
        """Name ``sft.learning_rate`` and, before the first step, ``policy.dtype`` in the errors."""
        self._learning_rate = learning_rate
        self._dtype = dtype

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check the losses.

        Raises:
            NonFiniteError: One is NaN or infinite.
        """
        for name, meaning in (("loss", "the loss"), ("eval_loss", "the held-out loss")):
            if not math.isfinite(value := (logs or {}).get(name, 0.0)):
                raise self._error(state, f"{meaning} is {value}")

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Check the adapter's weights.

        Raises:
            NonFiniteError: One is NaN or infinite.
        """
        weights = [p.detach() for p in model.parameters() if p.requires_grad]
        # The largest weight stands for all, so that a GPU is waited for once.
        if not torch.isfinite(nn.utils.get_total_norm(weights, norm_type=math.inf)):
            raise self._error(state, "the adapter has weights that are not finite")

    def _error(self, state: TrainerState, what: str) -> NonFiniteError:
        if state.global_step:
            outcome = (
                "the training has diverged, and nothing of this step is saved: lower sft.learning_rate = "
                f"{self._learning_rate:g}, and choose another output"
            )
        else:
            outcome = (
                "nothing was trained yet: policy.base_model computes such numbers in policy.dtype = "
                f"{self._dtype}; take float32, or bfloat16"
            )
        return NonFiniteError(f"step {state.global_step}: {what}", outcome=outcome)


class StopCallback(TrainerCallback):  # type: ignore[misc]
    """Ends the training after the step in which a signal asked for it, with a checkpoint of that step."""

    def __init__(self, stop: StopRequest):
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
