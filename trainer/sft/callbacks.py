"""Callbacks of TRL's trainer: they report progress and metrics, and end the training at a signal or if it diverges."""

import json
import math
import shlex
import time
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.config.sections import SFTRunConfig
from trainer.console.metric_catalog import SFT_METRICS
from trainer.console.progress import OnStep
from trainer.console.stop_signals import Stopped, StopRequest
from trainer.console.trackers import Trackers
from trainer.errors import NonFiniteError
from trainer.io.durable import write_file
from trainer.io.metrics_file import METRICS_FILE, metrics_row
from trainer.io.paths import read_plain


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Passes TRL's log lines to the progress display, ``metrics.jsonl`` and the trackers.

    A context manager around the training, which closes the trackers.
    """

    def __init__(self, config: SFTRunConfig, on_step: OnStep, say: Callable[[str], None]):
        """Write to the files of ``config.output``; ``say`` gets the held-out losses, and warnings of trackers."""
        self._config = config
        self._metrics = config.output / METRICS_FILE
        self._on_step = on_step
        self._say = say
        self._trackers: Trackers | None = None
        self._repeated: set[tuple[float, bool]] = set()
        """The steps that a killed training has logged after its checkpoint, and whether it logged a held-out loss."""
        self._before = 0, 0.0
        """The step of the line before, or of the start, and when it was written."""

    def __enter__(self) -> Self:
        """Nothing to do: the trackers are opened when the training begins."""
        return self

    def __exit__(self, *error: object) -> None:
        if self._trackers is not None:
            self._trackers.close()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop the lines of the steps that are repeated, open the trackers, and say what begins."""
        # Without a checkpoint, the held-out loss before the first step is measured again too.
        kept_step = state.global_step or -1
        lines = read_plain(self._metrics).splitlines(True) if self._metrics.exists() else []
        found = [(line, metrics_row(line)) for line in lines if line.endswith(b"\n")]
        rows = [(line, row) for line, row in found if row is not None]
        kept = [line for line, row in rows if row["step"] <= kept_step]
        self._repeated = {
            (row["step"], "eval_loss" in row) for _, row in rows if row["step"] > kept_step
        }
        write_file(self._metrics, b"".join(kept))
        self._before = state.global_step, time.monotonic()
        output, sft = self._config.output, self._config.sft
        self._trackers = Trackers(
            self._config.trackers, output, first_step=kept_step, say=self._say
        )
        self._say(
            f"{output}: {state.max_steps} steps of {sft.batch_size} "
            f"{'packed rows' if sft.packing else 'demonstrations'}; python -m trainer watch "
            f"{shlex.quote(str(output))} shows the losses as they come"
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass on the losses, and what was measured with them."""
        logs = logs or {}
        if not logs.keys() & {"loss", "eval_loss"}:
            return
        # The gradient of a step that float16's loss scaling skips is infinite, which JSON cannot say.
        numbers = {n: logs[n] for n in SFT_METRICS if n in logs and math.isfinite(logs[n])}
        step, num_steps = state.global_step, state.max_steps
        (step_before, then), now = self._before, time.monotonic()
        self._before = step, now
        if "loss" in logs and step > step_before:
            numbers["time/step_s"] = (now - then) / (step - step_before)
        row = {"step": step, "num_steps": num_steps, "time": round(time.time(), 3), **numbers}
        with self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self._trackers is not None:
            is_repeated = (step, "eval_loss" in logs) in self._repeated
            self._trackers.log(step, numbers, is_repeated=is_repeated)
        if "loss" in logs:
            self._on_step(step, num_steps, float(logs["loss"]))
        if "eval_loss" in logs:
            self._say(f"sft step {step}/{num_steps} held-out loss {logs['eval_loss']:.4f}")


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
