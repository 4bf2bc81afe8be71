"""How long to try again, and the log lines about a server that fails."""

import logging
import math
import time

from stamina.instrumentation import set_on_retry_hooks

# Stamina would log every attempt of every request; `Outage` logs an outage once.
set_on_retry_hooks(())

_SECONDS_BETWEEN_LINES = 30.0

_log = logging.getLogger(__name__)


class Patience:
    """A deadline whose clock starts with the first failure, so that time without failures does not count."""

    def __init__(self, give_up_after_s: float):
        self._give_up_after_s = give_up_after_s
        self._since_s: float | None = None

    def lasts(self) -> bool:
        """Whether to try again after a failure; the first call starts the clock."""
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s
        return now_s - self._since_s < self._give_up_after_s

    def left_s(self) -> float:
        """How long it still lasts, in seconds, at least 0."""
        if self._since_s is None:
            return self._give_up_after_s
        return max(0.0, self._since_s + self._give_up_after_s - time.monotonic())


class Outage:
    """Logs when a server begins to fail and why, every half minute that it still does, and when it is over."""

    def __init__(self, give_up_after_s: float, *, is_logged: bool):
        """``give_up_after_s`` only appears in the log lines, which are left out unless ``is_logged``."""
        self._give_up_after_s = give_up_after_s
        self._level = logging.WARNING if is_logged else logging.DEBUG
        self._since_s: float | None = None
        self._logged_s = -math.inf
        self._num_failures = 0

    def failed(self, path: str, reason: str) -> None:
        """Note that a request to ``path`` had no good answer."""
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s, self._logged_s, self._num_failures = now_s, -math.inf, 0
        self._num_failures += 1
        if now_s - self._logged_s >= _SECONDS_BETWEEN_LINES:
            self._logged_s = now_s
            _log.log(
                self._level,
                'event=server_fails path=%s reason="%s" for_s=%.1f give_up_after_s=%g',
                path,
                reason,
                now_s - self._since_s,
                self._give_up_after_s,
            )

    def over(self) -> None:
        """Note that a request had a good answer."""
        if self._since_s is not None:
            _log.log(
                self._level,
                "event=server_answers after_s=%.1f failures=%d",
                time.monotonic() - self._since_s,
                self._num_failures,
            )
            self._since_s = None
