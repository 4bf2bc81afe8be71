"""How many completions the engine has at a time, and whose turn it is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

Place = Callable[[], AbstractAsyncContextManager[None]]
"""A block in which one completion of a group has its place."""


class Queue:
    """The places that completions have in the engine; one queue for all requests of a priority.

    Groups begin one after the other, each once there is a place for its first completion, so that a group that waits
    needs no version and no replica yet. Requests take turns: of each, only the next group stands in the queue.
    """

    def __init__(self, num_places: int) -> None:
        """See the class."""
        self._places = asyncio.Semaphore(num_places)
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def group(self, request_turn: asyncio.Lock, num_completions: int) -> AsyncIterator[Place]:
        """Waits until a group may begin; the next one may once each completion of this one has a place.

        Args:
            request_turn: The same for all groups of a request, and for no other.
            num_completions: How many completions the group has; each takes one place.
        """
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(request_turn)
            await turn.enter_async_context(self._turn)
            async with self._places:
                pass  # It stays free for this group: only the group whose turn it is takes any.
            num_without = num_completions

            @asynccontextmanager
            async def place() -> AsyncIterator[None]:
                nonlocal num_without
                async with self._places:
                    num_without -= 1
                    if num_without == 0:
                        await turn.aclose()
                    yield

            yield place
