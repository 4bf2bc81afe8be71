"""Graceful shutdown: lets requests in flight finish, and tells a requested stop from a dead engine."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.datastructures import State

_POLL_S = 0.05
# Time for the answers that say so when requests did not finish in time.
_ANSWERS_WITHIN_S = 1.0


class Shutdown:
    """Stops the server on SIGINT and SIGTERM, and records that it was asked to.

    Args:
        drain_timeout_s: Time that requests in flight have to finish, in seconds. Those that have not are answered
            with an error.
    """

    def __init__(self, drain_timeout_s: float) -> None:
        """See the class."""
        self._drain_timeout_s = drain_timeout_s
        self._ending: asyncio.Task[None] | None = None
        self.requested = False
        """Whether a signal asked for the stop; if not, the server ended because its engine did."""

    async def take_over(
        self, state: State, end_requests: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Replaces vLLM's signal handlers, which abort requests in flight, once the server listens.

        On a signal the HTTP server accepts no more connections, finishes its requests and exits; the
        engine stops after it. A second signal stops without waiting.

        Args:
            state: The application's state, in which vLLM stores its HTTP server.
            end_requests: Makes the engine end all requests, so that their routes answer with its error.
        """
        while not hasattr(state, "server"):  # noqa: ASYNC110 - vLLM sends no event for it
            await asyncio.sleep(_POLL_S)
        server = state.server
        # uvicorn then cancels what is left; it would answer in plain text, or not at all.
        server.config.timeout_graceful_shutdown = self._drain_timeout_s + _ANSWERS_WITHIN_S
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._stop, server, end_requests)

    def _stop(self, server: Any, end_requests: Callable[[], Coroutine[Any, Any, None]]) -> None:
        server.force_exit = self.requested
        server.should_exit = self.requested = True
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(end_requests))

    async def _end(self, end_requests: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await asyncio.sleep(self._drain_timeout_s)
        await end_requests()
