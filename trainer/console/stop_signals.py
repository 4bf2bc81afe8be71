"""SIGTERM and Ctrl-C let a long command finish its step and save; a second one ends it within seconds.

Python runs a signal's handler only between two instructions of the main thread, and one call of PyTorch
can take minutes. So a thread reads the signals too (`signal.set_wakeup_fd`), and ends the process itself
if the handler does not. Ending the process at any moment is safe: what is in the journal is not lost.
"""

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_END_WITHIN_S = 3.0
"""How long the main thread has, after a second signal, to leave by itself and close what it opened."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NO_SIGNAL = b"\0"


class Stopped(Exception):
    """A signal asked to stop during a wait."""


class EndedBySignal(KeyboardInterrupt):
    """A signal ends the command at once."""

    def __init__(self, number: int):
        """``number`` is the signal's number."""
        super().__init__(number)
        self.exit_code = 128 + number
        """The exit code that a shell shows for a process killed by the signal."""


class StopRequest:
    """Whether a signal asked to stop; loops check it between steps."""

    def __init__(self) -> None:
        self.requested = False
        self._grace_s: float | None = None
        self._is_over = False
        self._num_own = 0
        """Signals that `_leave` has sent and `is_own` has not yet reported."""
        self._timer = threading.Timer(0, lambda: None)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._is_over:  # Sent by `_leave`, in the main thread.
            self._is_over = False
            if self._grace_s is not None:
                raise Stopped
        elif self.requested:  # The second signal.
            raise EndedBySignal(number)
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

    def is_own(self) -> bool:
        """Whether a signal that has arrived was sent by `_leave` to end a wait; to be asked once for each signal."""
        if self._num_own:
            self._num_own -= 1
            return True
        return False

    def _leave(self, number: int, grace_s: float) -> None:
        if not grace_s:
            raise Stopped

        def leave() -> None:
            if self._grace_s is not None:
                self._is_over = True
                self._num_own += 1
                signal.pthread_kill(threading.main_thread().ident or 0, number)

        self._timer = threading.Timer(grace_s, leave)
        self._timer.daemon = True
        self._timer.start()


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Handle SIGTERM and SIGINT within the block, which must run in the main thread."""
    stop = StopRequest()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch, args=(stop, reading), daemon=True)
    watcher.start()
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    fd_before = signal.set_wakeup_fd(writing)
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writing, _NO_SIGNAL)
        watcher.join()
        os.close(reading)
        os.close(writing)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that the block can clean up; it must run in the main thread.

    Raises:
        EndedBySignal: SIGTERM arrived.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise EndedBySignal(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(stop: StopRequest, reading: int) -> None:
    """Read the numbers of signals until the block ends; if it does not end after a second signal, end the process."""
    num_signals = 0
    while (byte := os.read(reading, 1)) != _NO_SIGNAL:
        if byte[0] not in _SIGNALS or stop.is_own():
            continue
        num_signals += 1
        name = signal.Signals(byte[0]).name
        if num_signals == 1:
            _say(f"{name}: stopping once this step is done; a second one ends it at once")
        elif num_signals > 2 or not _is_readable(reading, _END_WITHIN_S):
            _say(f"{name}: ended at once; the same command resumes")
            os._exit(128 + byte[0])


def _is_readable(descriptor: int, timeout_s: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout_s)[0])


def _say(line: str) -> None:
    # Not by print, whose lock the main thread may hold. On a terminal a bar, or the ^C that it shows, stands in the line.
    with suppress(OSError):  # Nobody reads it any more.
        begin = "\n" if os.isatty(2) else ""
        os.write(2, f"{begin}{line}\n".encode())
