"""A request that a pool has taken and not answered yet."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from trainer.client.protocol import InferenceServer
from trainer.servers.member import Member


@dataclass(kw_only=True, eq=False)
class PendingRequest:
    """A request, the servers that it was sent to, and who waits for its result."""

    version: int | None
    """The adapter version that answers it; None is the base."""
    size: int
    """Number of groups."""
    send: Callable[[InferenceServer], Awaitable[tuple[Any, str | None]]]
    """Returns the answer, and the server's boot id if the answer names it."""
    only: Member | None
    """The server that it must go to, if any."""
    result: asyncio.Future[tuple[Any, Member]]
    tasks: dict[Member, asyncio.Task[None]] = field(default_factory=dict)
    """The servers that it was sent to."""
    since_s: float = 0.0
    """When it was first sent, on the monotonic clock."""
    num_lost: int = 0
    """How often a server turned out to have lost its version."""

    def fail(self, error: Exception) -> None:
        """Raise an error where the result is awaited, unless there is one already."""
        if not self.result.done():
            self.result.set_exception(error)
