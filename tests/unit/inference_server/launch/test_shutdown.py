"""A signal lets requests finish, then ends them, then stops the server."""

import asyncio
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import State

from inference_server.launch.shutdown import Shutdown


async def test_requests_that_do_not_finish_in_time_are_ended_before_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers: dict[int, Callable[[], Any]] = {}
    monkeypatch.setattr(
        asyncio.get_running_loop(),
        "add_signal_handler",
        lambda signum, call, *args: handlers.update({signum: lambda: call(*args)}),
    )
    server = SimpleNamespace(config=SimpleNamespace(), should_exit=False, force_exit=False)
    num_ended = 0

    async def end_requests() -> None:
        nonlocal num_ended
        num_ended += 1

    shutdown = Shutdown(drain_timeout_s=0)
    await shutdown.take_over(State({"server": server}), end_requests)
    # uvicorn cancels what is left only after the routes had time to answer.
    assert server.config.timeout_graceful_shutdown > 0
    await asyncio.sleep(0)
    assert (shutdown.requested, num_ended) == (False, 0)
    handlers[signal.SIGTERM]()
    assert (server.should_exit, server.force_exit, shutdown.requested) == (True, False, True)
    handlers[signal.SIGINT]()
    assert server.force_exit
    assert shutdown._ending is not None
    await shutdown._ending
    assert num_ended == 1
