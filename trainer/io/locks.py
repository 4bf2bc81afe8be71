"""Locks, so that two processes do not write one file or folder; the end of a process, even by a kill, releases its own."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from trainer.errors import UsageError
from trainer.io.paths import open_plain

_log = logging.getLogger(__name__)
_LOCK_FILE = ".lock"
_TAKEN = (BlockingIOError, PermissionError)
"""Errors of a lock that another process has; which of them depends on the file system."""
_TRIES, _WAIT_S = 20, 0.05
"""How often a taken lock is asked for, and how long is waited in between: who only looks whether a file is locked, as
`watch` does, has a lock for a moment itself."""


def lock(file: FileIO, path: Path, *, taken: str) -> None:
    """Lock an open file until it is closed; where the file system has no locks, log a warning and go on.

    Args:
        file: The file, which must not be replaced by another of its name; who has the lock may remove it.
        path: Its path.
        taken: The error if another process has the lock.

    Raises:
        UsageError: Another process has locked the file.
    """
    try:
        if not _could_lock(file):
            raise UsageError(taken)
    except OSError as error:
        _log.warning(
            'event=not_locked path=%s reason="%s" advice="start no second process that writes it"',
            path,
            error.strerror,
        )
        return
    # Whoever had the lock may have removed the file since it was opened here: others would lock a new one.
    try:
        is_same = os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise UsageError(taken)


def _could_lock(file: FileIO) -> bool:
    """Whether the file could be locked, which another process may prevent."""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_WAIT_S)
        with suppress(*_TAKEN):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def is_locked(path: Path) -> bool:
    """Whether a process has locked a file; nothing is changed."""
    # There is no such file, or no locks in its file system.
    with suppress(OSError), FileIO(path, "rb", opener=open_plain) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except _TAKEN:
            return True
    return False


def is_locked_folder(folder: Path) -> bool:
    """Whether a process is within a block of `locked_folder`; nothing is changed."""
    return is_locked(folder / _LOCK_FILE)


@contextmanager
def locked_folder(folder: Path, *, taken: str) -> Iterator[None]:
    """Lock a folder within the block; it is created if it is missing.

    Raises:
        UsageError: Another process has locked it; ``taken`` is the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK_FILE
    with FileIO(path, "ab", opener=open_plain) as file:
        lock(file, path, taken=taken)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
