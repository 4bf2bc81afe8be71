"""Processes that a test starts: neither they nor their descendants outlive the test."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from subprocess import Popen

import psutil


@contextmanager
def killed_at_the_end(process: "Popen[str]") -> Iterator["Popen[str]"]:
    """Kills a process and its descendants at the block's end, and closes its pipes.

    A test that fails would otherwise leave them running, and its open pipes would be warned of in another test.
    """
    try:
        yield process
    finally:
        with process:
            with suppress(psutil.NoSuchProcess):
                for descendant in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        descendant.kill()
            process.kill()
