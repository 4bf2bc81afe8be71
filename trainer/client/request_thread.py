"""An event loop on a thread of its own, on which a server's requests run while the caller computes."""

from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from trainer.client.protocol import InferenceServer

_T = TypeVar("_T")


class RequestThread:
    """Runs coroutines that use a server's connection; made by `open_requests`."""

    def __init__(self, server: InferenceServer, portal: BlockingPortal):
        """``server`` may only be used by what runs on the ``portal``'s thread."""
        self.server = server
        self._portal = portal

    def call(self, function: Callable[..., Awaitable[_T]], *args: object) -> _T:
        """Run a coroutine function and wait for its result."""
        return self._portal.call(function, *args)

    def start(self, function: Callable[..., Awaitable[_T]], *args: object) -> Future[_T]:
        """Run a coroutine function; the future gets its result, and cancelling the future cancels it."""
        return self._portal.start_task_soon(function, *args)


@contextmanager
def open_requests(server: InferenceServer) -> Iterator[RequestThread]:
    """A connected server and its thread; both end with the block."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(server) as connected:
        yield RequestThread(connected, portal)
