"""Says that a disk is full, which whoever runs the server can mend."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference_server.errors import StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def full_disk_named(name: str, folder: Path) -> Iterator[None]:
    """Replaces the error of a write that found no space by one for the client, which names the folder.

    Args:
        name: What the folder is of the server, such as the flag that sets it.
        folder: Where the block writes.

    Raises:
        StorageFull: There was no space.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageFull(
            f"no space is left on the disk of the server's {name} {folder.absolute()}: free some, "
            "and the same request succeeds"
        ) from error
