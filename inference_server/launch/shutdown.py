"""Ending the server: what is in flight may finish, and a dead engine is told from a wish."""

import asyncio
import math
import signal
from typing import Any

from starlette.datastructures import State

_POLL_S = 0.05


class Shutdown:
    """Whether the server was asked to stop, and how it stops then.

    Args:
        drain_timeout_s: How long requests in flight may still take.
    """

    def __init__(self, drain_timeout_s: float) -> None:
        self._drain_timeout_s = drain_timeout_s
        self.requested = False
        """A signal asked for it; else the server ended because its engine had."""

    async def take_over(self, state: State) -> None:
        """Replaces vLLM's signal handlers once the server listens: they abort what is in flight.

        The HTTP server then takes no more connections, answers what it has, and ends; the engine is
        stopped after it. A second signal does not wait.

        Args:
            state: The application's; vLLM puts its HTTP server there.
        """
        while not hasattr(state, "server"):  # noqa: ASYNC110 - vLLM tells nobody that it is there
            await asyncio.sleep(_POLL_S)
        server = state.server
        server.config.timeout_graceful_shutdown = math.ceil(self._drain_timeout_s)
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._stop, server)

    def _stop(self, server: Any) -> None:
        server.force_exit = self.requested
        server.should_exit = self.requested = True
