"""Ctrl-C while a command imports its modules, which takes seconds; imports nothing that takes long itself."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED_EXIT_CODE = 130
"""What a shell shows for a process that Ctrl-C has ended."""


@contextmanager
def leaving_at_interrupt() -> Iterator[None]:
    """A block that only imports modules: SIGINT ends the process within it at once, if it is in the main thread.

    A library may swallow a KeyboardInterrupt, or replace it by an error of its own: Transformers says that it could not
    import a module. The block must not hold what has to be closed, such as another process.
    """
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is not signal.default_int_handler:
        # Only the main thread can handle signals; or it is ignored, or handled by somebody else.
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted_line() -> str:
    """Says which program and command was interrupted."""
    script = "regime-w"
    is_script = os.path.basename(sys.argv[0]) == script
    return (
        f"{' '.join([script if is_script else 'python -m trainer', *sys.argv[1:2]])}: interrupted"
    )


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{interrupted_line()}\n".encode())
    os._exit(INTERRUPTED_EXIT_CODE)
