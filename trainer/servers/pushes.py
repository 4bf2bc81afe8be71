"""How long the publication of a version waits for the servers of a pool."""

import asyncio
import math
import time
from collections.abc import Collection

from inference_server.wire.adapters.infos import AdapterInfo

_TIMES_FIRST = 2.0
"""How many times as long as the quickest push the others are waited for."""
_LEAST_S = 1.0


async def first_pushes(pushes: Collection["asyncio.Task[AdapterInfo | None]"]) -> list[AdapterInfo]:
    """What the pushes that end soon after the first one were answered; the others go on.

    Raises:
        ServerRejectedError: One of them was refused.
        SyncError: A server acknowledged other weights.
    """
    pending, infos = set(pushes), list[AdapterInfo]()
    started_s, deadline_s = time.monotonic(), math.inf
    left_s: float | None = None
    while pending and (left_s is None or left_s > 0):
        done, pending = await asyncio.wait(
            pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        infos += [info for task in done if (info := task.result()) is not None]
        now_s = time.monotonic()
        if infos and deadline_s == math.inf:
            deadline_s = now_s + max(_LEAST_S, _TIMES_FIRST * (now_s - started_s))
        left_s = None if deadline_s == math.inf else deadline_s - now_s
    return infos
