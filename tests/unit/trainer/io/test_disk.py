"""A full disk is told from other errors, wherever it shows."""

import errno
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from trainer.errors import DiskFullError
from trainer.io.disk import is_disk_full, raise_disk_full
from trainer.io.durable import append

FULL = Path("/dev/full")


def write_python() -> None:
    with FULL.open("w") as file:
        file.write("a")


def write_safetensors() -> None:
    """Fails as the library does; it writes in Rust, so that Python's own errors do not occur."""
    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    raise SafetensorError(message)


def write_in_a_thread_that_is_waited_for() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            write_python()
        except OSError as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise failed[0]


class Full(io.BytesIO):
    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def write_torch() -> None:
    torch.save({"a": torch.zeros(3)}, Full())


def write_torch_to_a_path() -> None:
    torch.save({"a": torch.zeros(300_000)}, FULL)


@pytest.mark.parametrize(
    "write",
    [
        write_python,
        write_torch,
        write_torch_to_a_path,
        write_safetensors,
        write_in_a_thread_that_is_waited_for,
    ],
)
def test_a_full_disk_is_one_line_that_names_the_folder(
    write: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DiskFullError) as caught, raise_disk_full(tmp_path):
        write()
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), ValueError("28"), RuntimeError()])
def test_other_errors_are_left_alone(error: Exception, tmp_path: Path) -> None:
    assert not is_disk_full(error)
    with pytest.raises(type(error)) as caught, raise_disk_full(tmp_path):
        raise error
    assert caught.value is error


class AlmostFull(io.FileIO):
    """A file that takes a few bytes at a time, and ``space`` bytes in all."""

    space = 10

    def write(self, data: Any, /) -> int:
        if not self.space:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = super().write(bytes(data[: min(4, self.space)]))
        self.space -= written
        return written


@pytest.mark.parametrize("wait", [True, False])
def test_a_line_is_added_whole_or_not_at_all(wait: bool, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"before\n")
    with AlmostFull(path, "ab") as file:
        append(file, b"fits\n", wait=wait)
        with pytest.raises(OSError, match="No space left"):
            append(file, b"does not\n", wait=wait)
        assert path.read_bytes() == b"before\nfits\n"
        file.space = 100
        append(file, b"does\n", wait=wait)
    assert path.read_bytes() == b"before\nfits\ndoes\n"
