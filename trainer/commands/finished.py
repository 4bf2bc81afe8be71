"""What a training command prints in the end: how long it took, what came of it, and what to do next."""

import shlex
from pathlib import Path

from trainer.console.progress import duration
from trainer.io.metrics_file import METRICS_FILE, Metrics, read_with_late, time_trained, with_late


def finished_text(folder: Path, *, step: int, adapter: Path) -> str:
    """The last lines of a finished run of `train`.

    Args:
        folder: The run's folder.
        step: The run's last step.
        adapter: The folder of its newest adapter.
    """
    steps, late = read_with_late(folder)
    rows = with_late(steps, late)
    lines = [
        f"{folder} is finished: step {step}{_time(steps)}; newest adapter {adapter}",
        *_accuracies([row for row in rows if "eval/accuracy" in row]),
        f"{_report(folder)} says whether it helped; raise run.num_steps for more steps",
    ]
    return "\n".join(lines)


def adapter_text(folder: Path, adapter: Path) -> str:
    """The last line of `train-offline`, finished or stopped."""
    steps, _ = read_with_late(folder)
    return f"adapter in {adapter}{_time(steps)}; {_report(folder)} shows the curves"


def sft_text(folder: Path) -> str:
    """The last line of `sft`, once its adapter is complete."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return f"adapter in {folder}; its losses are missing: there is no {path}"
    return f"adapter in {folder}; {_report(folder)} shows the losses"


def _time(steps: list[Metrics]) -> str:
    """The time of all steps, those before a resume included; empty if it is not known."""
    seconds = time_trained(steps)
    return "" if seconds is None else f", {duration(seconds)} of training"


def _accuracies(evaluations: list[Metrics]) -> list[str]:
    """A line about the evaluations during training, if there were any after the start."""
    if not evaluations or "eval/best_step" not in (newest := evaluations[-1]):
        return []
    found = [
        f"{row['eval/accuracy']:.1%} at the start"
        for row in evaluations[:1]
        if row["eval/step"] == 0
    ]
    found.append(f"{newest['eval/accuracy']:.1%} at step {newest['eval/step']:.0f}")
    best = f"{newest['eval/best_accuracy']:.1%} at step {newest['eval/best_step']:.0f}"
    return [f"held-out accuracy: {', '.join(found)}; the best {best} (`export --best` takes it)"]


def _report(folder: Path) -> str:
    return f"python -m trainer report {shlex.quote(str(folder))}"
