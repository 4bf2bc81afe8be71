"""Where a step's time goes, and who waits for whom."""

import threading
import time
from types import TracebackType


class BusyTime:
    """Seconds in which at least one request was in flight; read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_open = 0
        self._since = 0.0
        self._past_s = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._num_open:
                self._since = time.monotonic()
            self._num_open += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._num_open -= 1
            if not self._num_open:
                self._past_s += time.monotonic() - self._since

    @property
    def seconds(self) -> float:
        """So far."""
        with self._lock:
            current_s = time.monotonic() - self._since if self._num_open else 0.0
            return self._past_s + current_s


class StepClock:
    """Laps of one step: each phase is what passed since the lap before it."""

    def __init__(self, server: BusyTime):
        """``server`` is busy while it has rollouts to generate."""
        self._server = server
        self._server_busy_s = server.seconds
        self._started = self._last = time.monotonic()
        self._phases_s: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """End a phase; of a name that is given twice the times add up."""
        now = time.monotonic()
        self._phases_s[phase] = self._phases_s.get(phase, 0.0) + now - self._last
        self._last = now

    def phases(self) -> dict[str, float]:
        """Seconds of every phase and of the step so far."""
        return {
            **{f"time/{phase}_s": seconds for phase, seconds in self._phases_s.items()},
            "time/step_s": time.monotonic() - self._started,
        }

    def to_json(self) -> dict[str, float]:
        """`phases`, and the shares of the step in which one side waited.

        The share of ``wait`` in the step is the trainer's; the server idles while no rollout is in
        flight. The side that waits less is the bottleneck.
        """
        phases = self.phases()
        step_s = phases["time/step_s"]
        busy_s = self._server.seconds - self._server_busy_s
        return {
            **phases,
            "time/trainer_wait_share": self._phases_s.get("wait", 0.0) / step_s,
            "time/server_idle_share": max(0.0, 1.0 - busy_s / step_s),
        }
