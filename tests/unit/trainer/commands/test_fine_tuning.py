"""How an SFT is shown: whole lines, whoever says them, and one line for a full disk."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from safetensors import SafetensorError

from trainer.commands import fine_tuning
from trainer.commands.fine_tuning import run_fine_tuning
from trainer.config.sections import SFTRunConfig
from trainer.console.progress import OnStep
from trainer.errors import DiskFullError


class Written(io.StringIO):
    """A terminal's file that keeps each write, between which another thread may write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str, /) -> int:
        self.writes.append(text)
        return len(text)


def test_each_line_is_written_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run_sft(config: SFTRunConfig, on_step: OnStep, say: Callable[[str], None]) -> Path:
        say("warning: trackers: [bold]wandb[/bold] fails")
        on_step(1, 2, 0.5)
        return config.output

    monkeypatch.setattr(fine_tuning, "run_sft", run_sft)
    file = Written()
    assert run_fine_tuning(SFTRunConfig(output=tmp_path), Console(file=file)) == tmp_path
    assert file.writes == [
        "warning: trackers: [bold]wandb[/bold] fails\n",
        "sft step 1/2 loss 0.5000\n",
    ]


def test_a_full_disk_is_one_line_that_names_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_sft(*asked: object) -> Path:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(fine_tuning, "run_sft", run_sft)
    with pytest.raises(DiskFullError, match=str(tmp_path)):
        run_fine_tuning(SFTRunConfig(output=tmp_path), Console(file=Written()))
