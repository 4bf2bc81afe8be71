"""How long each phase of a step takes, and which side waits for the other."""

import threading
import time


class BusyTime:
    """Seconds in which at least one request was in flight; can be read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_open = 0
        self._since = 0.0
        self._past_s = 0.0

    def __enter__(self) -> None:
        """A request begins."""
        with self._lock:
            if not self._num_open:
                self._since = time.monotonic()
            self._num_open += 1

    def __exit__(self, *error: object) -> None:
        """A request has ended."""
        with self._lock:
            self._num_open -= 1
            if not self._num_open:
                self._past_s += time.monotonic() - self._since

    @property
    def seconds(self) -> float:
        """The busy time so far."""
        with self._lock:
            current_s = time.monotonic() - self._since if self._num_open else 0.0
            return self._past_s + current_s


class StepClock:
    """Times the phases of one step: each lasts from the previous lap to its own."""

    def __init__(self, server: BusyTime):
        """``server`` is busy while it has rollouts to generate."""
        self._server = server
        self._server_busy_s = server.seconds
        self._started = self._last = time.monotonic()
        self._phases_s: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """End a phase; repeated phases accumulate."""
        now = time.monotonic()
        self._phases_s[phase] = self._phases_s.get(phase, 0.0) + now - self._last
        self._last = now

    def phases(self) -> dict[str, float]:
        """Seconds of every phase and of the step so far."""
        return {
            **{f"time/{phase}_s": seconds for phase, seconds in self._phases_s.items()},
            "time/step_s": time.monotonic() - self._started,
        }

    def metrics(self) -> dict[str, float]:
        """`phases`, and the fractions of the step in which trainer and server waited.

        The trainer waits in the phase ``wait``; the server waits while no rollout is in flight. The
        side that waits less is the bottleneck.
        """
        phases = self.phases()
        step_s = phases["time/step_s"]
        busy_s = self._server.seconds - self._server_busy_s
        return {
            **phases,
            "time/trainer_wait_share": self._phases_s.get("wait", 0.0) / step_s,
            "time/server_idle_share": max(0.0, 1.0 - busy_s / step_s),
        }
