"""Standard output that cannot be written, such as a pipe whose reader has had enough, in command-line programs."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def ending_with_the_reader(*, failed_code: int = 1) -> Iterator[None]:
    """Ends the program with exit code 1 if nobody reads any more what the block prints, as after ``head``.

    Nothing is said then; of any other failure, such as a full disk, one line is.

    Args:
        failed_code: Exit code after any other failure.
    """
    before = sys.stdout
    if (descriptor := _descriptor_of(before)) is None:
        yield
        return
    before.flush()
    sys.stdout = output = io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor, failed_code)),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=before.isatty(),
    )
    try:
        yield
    finally:
        sys.stdout = before
        output.flush()


def _descriptor_of(stream: Any) -> int | None:
    """The file descriptor of a stream; None if it was closed when the program started, or writes into memory."""
    with suppress(AttributeError, OSError):
        return int(stream.fileno())
    return None


class _Output(io.FileIO):
    """A file descriptor; if it cannot be written, the program ends, whatever handles errors of files on the way."""

    def __init__(self, descriptor: int, failed_code: int):
        super().__init__(descriptor, "w", closefd=False)
        self._failed_code = failed_code

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # Else what is left in the buffers would fail once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(error, BrokenPipeError):
                sys.exit(1)
            with suppress(OSError):
                print(f"error: standard output: {error.strerror}", file=sys.stderr)  # noqa: T201
            sys.exit(self._failed_code)
