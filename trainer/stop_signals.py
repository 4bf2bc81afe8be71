"""SIGTERM and Ctrl-C ask a long command to end between two steps; asked twice, it ends at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether a signal asked to stop; a loop looks between steps."""

    requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        if self.requested:  # Asked twice: now.
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Catch the signals within the block."""
    stop = StopRequest()
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
