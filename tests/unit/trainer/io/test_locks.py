"""Locks on files that only one process may write."""

import errno
import fcntl
import time
from io import FileIO
from pathlib import Path

import pytest

from trainer.errors import UsageError
from trainer.io.locks import is_locked, lock, locked_folder
from trainer.run_state.journal import Journal, is_at_work


def test_a_folder_has_one_lock_and_gives_it_back(tmp_path: Path) -> None:
    with (
        locked_folder(tmp_path, taken="by another"),
        pytest.raises(UsageError, match="by another"),
        locked_folder(tmp_path, taken="by another"),
    ):
        pass
    assert not list(tmp_path.iterdir())
    with locked_folder(tmp_path, taken="taken"):
        pass


def test_a_lock_file_that_its_owner_removes_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Even if it is there the moment before.
    monkeypatch.setattr(Path, "exists", lambda _: True)
    path = tmp_path / ".lock"
    with FileIO(path, "ab") as file:
        path.unlink()
        with pytest.raises(UsageError, match="taken"):
            lock(file, path, taken="taken")
        path.touch()  # another process's
        with pytest.raises(UsageError, match="taken"):
            lock(file, path, taken="taken")


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked_folder(tmp_path, taken="taken"):
        (message,) = caplog.messages
    assert message.startswith(f"event=not_locked path={tmp_path}")
    assert "No locks available" in message


def test_a_look_at_the_lock_of_a_journal_keeps_no_trainer_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path):
        assert is_at_work(tmp_path)
    look = (tmp_path / "journal.jsonl").open("rb")
    fcntl.flock(look, fcntl.LOCK_SH | fcntl.LOCK_NB)
    monkeypatch.setattr(time, "sleep", lambda _: look.close())
    with Journal(tmp_path):
        assert look.closed


@pytest.mark.parametrize(
    ("error", "taken"),
    [
        pytest.param(errno.EWOULDBLOCK, True, id="most file systems"),
        pytest.param(errno.EACCES, True, id="some network file systems"),
        pytest.param(errno.ENOLCK, False, id="a file system without locks"),
    ],
)
def test_a_look_finds_what_a_lock_would_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, taken: bool
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(error, "refused")

    (tmp_path / "file").touch()
    monkeypatch.setattr(fcntl, "flock", flock)
    assert is_locked(tmp_path / "file") is taken
    assert not is_locked(tmp_path / "missing")
