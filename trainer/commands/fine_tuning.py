"""Runs an SFT and shows it on a terminal, for `sft` and the demo."""

from functools import partial
from pathlib import Path

from rich.console import Console

from trainer.config.sections import SFTRunConfig
from trainer.console.progress import step_lines
from trainer.console.terminal import print_line
from trainer.io.disk import raise_disk_full
from trainer.sft.training import run_sft


def run_fine_tuning(config: SFTRunConfig, console: Console) -> Path | None:
    """Train the adapter, with a progress bar and lines on one console; returns its folder, or None if it was stopped.

    Raises:
        DiskFullError: There is no space left.
        TrainerError: See `run_sft`.
    """
    # The console writes each line at once: a tracker warns from a thread of its own.
    with raise_disk_full(config.output), step_lines("sft", console) as on_step:
        return run_sft(config, on_step, partial(print_line, console))
