"""Tells a full disk apart from other file errors, and reports it in one line.

A run that a full disk stops loses nothing, because its files are written completely or not at all
(`trainer.io.durable`): it resumes once there is space.
"""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_FULL_IN_WORDS = (*(f"(os error {code})" for code in _FULL), "basic_ios::clear: iostream error")
"""What safetensors, which writes in Rust, says of a full disk; and what PyTorch's writer says of any write that fails."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that there is no space left."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if any(words in str(seen) for words in _FULL_IN_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def raise_disk_full(folder: Path) -> Iterator[None]:
    """Turn a full disk within the block into a `DiskFullError`; threads do not print the error in addition.

    Args:
        folder: The folder that is written to.

    Raises:
        DiskFullError: There is no space left.
    """
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        # The code that waits for the thread's result gets the error, too.
        if failed.exc_value is None or not is_disk_full(failed.exc_value):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise DiskFullError(folder) from error
        raise
    finally:
        threading.excepthook = before
