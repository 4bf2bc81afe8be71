"""Work that ends when the client goes."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

_T = TypeVar("_T")


async def disconnected(request: Request) -> None:
    """Returns when the client has disconnected.

    Call it after the body has been read: the next message is then the end of the connection.
    """
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Result of ``work``; None if the client disconnected, which cancels it."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        watch.cancel()
        task.cancel()
        # Aborts take a moment; only then are leases released.
        await asyncio.gather(task, return_exceptions=True)
