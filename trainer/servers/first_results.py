"""Waits for requests to all servers of a pool, but not for a server that hangs."""

import asyncio
import math
import time
from collections.abc import Collection
from typing import TypeVar

_TIMES_FIRST = 2.0
"""The grace period ends after this many times the time that the first result took."""
_LEAST_S = 1.0

_T = TypeVar("_T")


async def first_results(asked: Collection["asyncio.Task[_T | None]"]) -> list[_T]:
    """The results that arrive within a grace period after the first; late tasks keep running.

    Args:
        asked: A task for each server; a result of None does not count.

    Raises:
        Exception: The error of a task that ended in time.
    """
    pending, results = set(asked), list[_T]()
    started_s, deadline_s = time.monotonic(), math.inf
    left_s: float | None = None
    while pending and (left_s is None or left_s > 0):
        done, pending = await asyncio.wait(
            pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        results += [result for task in done if (result := task.result()) is not None]
        now_s = time.monotonic()
        if results and deadline_s == math.inf:
            deadline_s = now_s + max(_LEAST_S, _TIMES_FIRST * (now_s - started_s))
        left_s = None if deadline_s == math.inf else deadline_s - now_s
    return results
