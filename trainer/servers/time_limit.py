"""Limits how long a server may take for a call that only looks something up."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from trainer.errors import ServerUnreachableError

LOOKED_WITHIN_S = 30.0
"""How long a server may take to say what it is or holds; one that hangs would take ``server.request_timeout_s``."""

_T = TypeVar("_T")


async def result_in_time(call: Callable[[], Awaitable[_T]]) -> _T:
    """The result of a call that only looks something up, if it comes within `LOOKED_WITHIN_S`.

    Raises:
        ServerUnreachableError: No answer came in that time.
    """
    try:
        async with asyncio.timeout(LOOKED_WITHIN_S):
            return await call()
    except TimeoutError:
        raise ServerUnreachableError(f"no answer within {LOOKED_WITHIN_S:g} s") from None
