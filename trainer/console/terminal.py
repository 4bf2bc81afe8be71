"""Prints lines on a terminal, and moves a run's output to a file once its terminal is closed or its pipe has no reader.

A terminal that is closed sends SIGHUP, and writing to it fails from then on; so does writing to a pipe whose
reader has ended. Neither should stop training.
"""

import io
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from rich.console import Console

CONSOLE_FILE = "console.log"


class _Output(io.FileIO):
    """A file descriptor that switches to a file when writing to it fails."""

    def __init__(self, descriptor: int, rest: Path):
        super().__init__(descriptor, "w", closefd=False)
        self._descriptor = descriptor
        self._rest: Path | None = rest
        self.was_terminal = os.isatty(descriptor)

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            if self._rest is None:
                return len(
                    data
                )  # The file cannot be written either: drop the output, keep the run.
            self.switch()
            return self.write(data)

    def switch(self) -> None:
        """Write to the file from now on."""
        path, self._rest = self._rest, None
        if path is None:
            return
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o644)
        except OSError:
            file = os.open(os.devnull, os.O_WRONLY)
        # Under the same descriptor, so that libraries that write to it directly switch, too.
        os.dup2(file, self._descriptor)
        os.close(file)


def print_line(console: Console, line: str) -> None:
    """Print a line without reading markup in it; on a terminal it is wrapped between words, in a log it stays whole."""
    console.print(
        wrapped(console, line), markup=False, emoji=False, highlight=False, soft_wrap=True
    )


def wrapped(console: Console, line: str) -> str:
    """The line as `print_line` prints it."""
    if not console.is_terminal:
        return line
    # A path that is longer than the terminal stays one word, so that it can be copied; Rich would break it.
    return textwrap.fill(line, console.width, break_long_words=False, break_on_hyphens=False)


@contextmanager
def lasting_output(rest: Path) -> Iterator[None]:
    """Within the block, stdout and stderr switch to a file once nobody reads them.

    Args:
        rest: The file, created when needed; its folder must exist by then.
    """
    before = sys.stdout, sys.stderr
    outputs = [_Output(stream.fileno(), rest) for stream in before]
    sys.stdout, sys.stderr = map(_as_text, before, outputs)

    def on_hangup(number: int, frame: FrameType | None) -> None:
        for output in outputs:
            if output.was_terminal:
                output.switch()

    handler = signal.getsignal(signal.SIGHUP)
    if handler is not signal.SIG_IGN:  # nohup ignores it already.
        signal.signal(signal.SIGHUP, on_hangup)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, handler)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _as_text(before: TextIO, output: _Output) -> TextIO:
    before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=True,
    )
