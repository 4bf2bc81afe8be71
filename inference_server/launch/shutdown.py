"""Graceful shutdown: lets requests in flight finish, and tells a requested stop from a dead engine."""

import asyncio
import math
import signal
from typing import Any

from starlette.datastructures import State

_POLL_S = 0.05


class Shutdown:
    """Stops the server on SIGINT and SIGTERM, and records that it was asked to.

    Args:
        drain_timeout_s: Time that requests in flight have to finish, in seconds.
    """

    def __init__(self, drain_timeout_s: float) -> None:
        """See the class."""
        self._drain_timeout_s = drain_timeout_s
        self.requested = False
        """Whether a signal asked for the stop; if not, the server ended because its engine did."""

    async def take_over(self, state: State) -> None:
        """Replaces vLLM's signal handlers, which abort requests in flight, once the server listens.

        On a signal the HTTP server accepts no more connections, finishes its requests and exits; the
        engine stops after it. A second signal stops without waiting.

        Args:
            state: The application's state, in which vLLM stores its HTTP server.
        """
        while not hasattr(state, "server"):  # noqa: ASYNC110 - vLLM sends no event for it
            await asyncio.sleep(_POLL_S)
        server = state.server
        server.config.timeout_graceful_shutdown = math.ceil(self._drain_timeout_s)
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._stop, server)

    def _stop(self, server: Any) -> None:
        server.force_exit = self.requested
        server.should_exit = self.requested = True
