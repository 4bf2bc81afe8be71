"""A full disk: told in one line, and known from everything else that can go wrong with files.

Files that matter are written whole or not at all (`trainer.io.durable`), so a run that a full disk has
stopped loses nothing: it goes on once there is space.
"""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that there is no space left."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        # Safetensors writes its files in Rust, and raises an error of its own.
        if "(os error 28)" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def raise_disk_full(folder: Path) -> Iterator[None]:
    """Within the block a full disk is a `DiskFullError`, raised here and printed by no thread.

    Args:
        folder: What is written to.

    Raises:
        DiskFullError: There is no space left.
    """
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        # Whoever waits for the thread's work gets the error again.
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
