"""What TRL calls while it fine-tunes: progress and metrics."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.console.progress import OnStep
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
        """Drop the lines after the checkpoint, whose steps are repeated."""
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
