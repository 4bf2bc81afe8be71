"""For the programs of this package: output that cannot be written, as into a pipe whose reader has had enough."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_with_the_reader() -> Iterator[None]:
    """Ends the program with exit code 1 if nobody reads any more what the block prints, as after ``head``.

    Nothing is said then; of any other failure, such as a full disk, one line is.
    """
    try:
        try:
            yield
        finally:
            print(end="", flush=True)  # noqa: T201 - sys.stdout is None if it was closed
    except OSError as error:
        if error.filename is not None:  # of a file that the block has opened
            raise
        # Else the interpreter's last flush would fail and print the error, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"error: standard output: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
