"""SIGTERM and Ctrl-C ask a long command to end in good order; asked twice, it ends at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """A signal asked to stop while there was nothing to do but wait."""


class StopRequest:
    """Whether a signal asked to stop; a loop looks between steps."""

    def __init__(self) -> None:
        """Nothing asked yet."""
        self.requested = False
        self._is_waiting = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        if self.requested:  # Asked twice: now.
            raise KeyboardInterrupt
        self.requested = True
        if self._is_waiting:
            raise Stopped

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that only waits for others, however long, and can be left at any moment.

        Raises:
            Stopped: A signal asked to stop.
        """
        self._is_waiting = True
        try:
            if self.requested:
                raise Stopped
            yield
        finally:
            self._is_waiting = False


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
