"""SIGTERM and Ctrl-C let a long command finish its step and save; a second one ends it at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """A signal asked to stop during a wait."""


class StopRequest:
    """Whether a signal asked to stop; loops check it between steps."""

    def __init__(self) -> None:
        """No signal yet."""
        self.requested = False
        self._grace_s: float | None = None
        self._is_over = False
        self._timer = threading.Timer(0, lambda: None)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._is_over:  # Sent by `_leave`, in the main thread.
            self._is_over = False
            if self._grace_s is not None:
                raise Stopped
        elif self.requested:  # The second signal.
            raise KeyboardInterrupt
        else:
            self.requested = True
            if self._grace_s is not None:
                self._leave(number, self._grace_s)

    @contextmanager
    def waiting(self, *, grace_s: float = 0.0) -> Iterator[None]:
        """A block that only waits, and that a signal may interrupt at any moment.

        Args:
            grace_s: How long the wait continues after a signal.

        Raises:
            Stopped: A signal asked to stop, now or before.
        """
        self._grace_s = grace_s
        try:
            if self.requested:
                self._leave(signal.SIGTERM, grace_s)
            yield
        finally:
            self._grace_s = None
            self._timer.cancel()

    def _leave(self, number: int, grace_s: float) -> None:
        if not grace_s:
            raise Stopped

        def leave() -> None:
            if self._grace_s is not None:
                self._is_over = True
                signal.pthread_kill(threading.main_thread().ident or 0, number)

        self._timer = threading.Timer(grace_s, leave)
        self._timer.daemon = True
        self._timer.start()


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Handle SIGTERM and SIGINT within the block."""
    stop = StopRequest()
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
