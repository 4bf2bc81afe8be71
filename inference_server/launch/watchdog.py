"""Ends the engine of a server that hangs, so that the server exits and its supervisor starts it again.

``/health`` reports a hung engine, but Kubernetes is the only supervisor that acts on it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from inference_server.engine import Engine, EngineDied

_PAUSE_S = 30.0
"""Time between an answer and the next question."""
_HUNG_AFTER_S = 300.0
"""The engine answers between two steps; no step takes nearly this long, not even on a CPU."""

_log = structlog.get_logger()


async def end_if_hung(engine: Engine, kill: Callable[[], None]) -> None:
    """Asks the engine again and again until it is dead; kills it if it does not answer in time.

    Args:
        engine: A running engine.
        kill: Kills it; the server then ends as after a crash.
    """
    while True:
        await asyncio.sleep(_PAUSE_S)
        try:
            async with asyncio.timeout(_HUNG_AFTER_S):
                await engine.loaded_ids()
        except TimeoutError:
            _log.error("engine_hung", no_answer_for_s=_HUNG_AFTER_S, action="killed")
            kill()
            return
        except EngineDied:
            return
        except Exception as error:  # an error is an answer, too: the engine does not hang
            _log.warning("engine_question_failed", reason=repr(error))


def kill_processes(client: Any) -> None:
    """Kills the processes of vLLM's engine, including any that are stopped."""
    manager = client.engine_core.resources.engine_manager
    for process in getattr(manager, "processes", ()):
        process.kill()
