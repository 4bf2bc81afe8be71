"""Waiting for another process or thread to do something."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, timeout_s: float = 300) -> None:
    """Waits until ``condition`` holds; the default timeout is long enough for a busy machine."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        time.sleep(0.02)
