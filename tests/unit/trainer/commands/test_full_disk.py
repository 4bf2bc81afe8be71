"""Commands that write files, on a full disk: one line that names it, exit code 3, and nothing half written is left."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors import SafetensorError

from trainer.cli import main
from trainer.errors import DiskFullError
from trainer.io.durable import write_file

FULL = OSError(errno.ENOSPC, "No space left on device")
"""As writing to an open file raises it: without the file's name."""
QUOTA = SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)")

WRITERS = {
    "tiny-model --output DISK/tiny": ("trainer.tiny_model.build.build_tiny_model", QUOTA),
    "text-model BASE --output DISK/text": ("trainer.model.base_model.save_language_model", QUOTA),
    "dequantize --policy.base_model BASE --output DISK/new": (
        "trainer.model.base_model.save_dequantized",
        QUOTA,
    ),
    "eval --models base --output DISK/e.json": ("trainer.evaluation.ask.run_evaluation", FULL),
    "collect --output DISK/r.jsonl": ("trainer.collect.collection.run_collect", FULL),
    "report DISK": ("trainer.report.page.report_run", FULL),
    "train-offline --policy.base_model BASE --rollouts BASE/config.json --run.folder DISK": (
        "trainer.offline.training.train_offline",
        FULL,
    ),
    "sft --policy.base_model BASE --output DISK": ("trainer.commands.fine_tuning.run_sft", QUOTA),
    "demo": ("trainer.commands.demo.run_demo", FULL),
}
"""Commands, the function that writes their files, and what it raises."""


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Within the block, no file can become longer, as on a disk that gets full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def ended(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """The exit code of a command, and what it says on standard error."""
    monkeypatch.setattr("trainer.cli.prepare_environment", lambda: None)
    monkeypatch.setattr("sys.argv", ["trainer", *command.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_is_one_line_that_names_it(
    command: str,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer, error = WRITERS[command]

    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writer, fails)
    words = command.replace("BASE", str(tiny_base)).replace("DISK", str(tmp_path))
    code, said = ended(words, monkeypatch, capsys)
    assert said == f"python -m trainer {words.split()[0]}: error: {DiskFullError(tmp_path)}\n"
    assert code == 3


def test_a_tiny_model_that_does_not_fit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with files_of_at_most(30_000):
        code, said = ended(f"tiny-model --output {tmp_path / 'tiny'}", monkeypatch, capsys)
    assert code == 3
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_fit_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_file(file, b"before")
    with files_of_at_most(100), pytest.raises(OSError, match="too large"):
        write_file(file, bytes(1_000))
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"before"
