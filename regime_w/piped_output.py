"""For the programs of this package: output into a pipe whose reader, such as ``head``, has had enough."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_with_the_reader() -> Iterator[None]:
    """Ends the program without a word, and with exit code 1, if nobody reads any more what the block prints."""
    try:
        try:
            yield
        finally:
            print(end="", flush=True)  # noqa: T201 - sys.stdout is None if it was closed
    except BrokenPipeError:
        # Else the interpreter's last flush would fail and print the error, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
