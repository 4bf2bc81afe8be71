"""Inspects the class of a model in a fork of the fork server, where vLLM starts a program that imports vLLM again.

vLLM inspects it while the server waits, unless its cache holds the result: not on a new machine or in a new container. It
does so in another process, since a model's module may initialize CUDA.
"""

import multiprocessing
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from multiprocessing.connection import Connection
from pickle import loads
from typing import Any

import structlog

from inference_server.launch.engine_process import EngineProcess, fork_server_pid

_TIMEOUT_S = 60.0
_log = structlog.get_logger()

Run = Callable[[Callable[[], Any]], Any]


class _InspectionError(Exception):
    """The function failed in the fork, or took too long."""


def inspect_in_forks() -> None:
    """Replaces vLLM's function that calls another in a new program."""
    # Not at the top: this module is imported before vLLM.
    from vllm.model_executor.models import registry  # noqa: PLC0415

    registry._run_in_subprocess = in_fork(registry._run_in_subprocess)


def in_fork(original: Run, timeout_s: float = _TIMEOUT_S) -> Run:
    """Calls a function without arguments in a fork, and by ``original`` if that cannot be or fails.

    Args:
        original: Calls a function in another process and returns its result.
        timeout_s: How long the function may take, once the fork server has imported its modules.
    """

    @wraps(original)
    def run(function: Callable[[], Any]) -> Any:
        if fork_server_pid() is None:
            return original(function)
        try:
            return _result(function, timeout_s)
        except (_InspectionError, EOFError, OSError) as error:
            _log.warning("inspection_not_forked", reason=str(error) or repr(error))
        return original(function)

    return run


def _result(function: Callable[[], Any], timeout_s: float) -> Any:
    # It comes with vLLM, which serializes the function by it too: it is a lambda.
    import cloudpickle  # noqa: PLC0415

    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver:
        process = EngineProcess(
            target=_answer, args=(cloudpickle.dumps(function), sender), daemon=True
        )
        with sender:  # closed here, so that the end of the fork is the end of the pipe
            process.start()
        try:
            if not receiver.poll(timeout_s):
                raise _InspectionError(f"no result within {timeout_s:g} s")
            has_result, answer = receiver.recv()
        finally:  # also if SIGTERM has raised SystemExit
            if process.is_alive():
                process.kill()
            process.join()
    if not has_result:
        raise _InspectionError(answer)
    return answer


def _answer(function: bytes, sender: Connection) -> None:
    """In the fork: sends whether the function returned, and its result or the traceback."""
    try:
        from vllm.plugins import load_general_plugins  # noqa: PLC0415

        load_general_plugins()  # as vLLM does in its program
        answer = (True, loads(function)())
    except Exception:
        answer = (False, traceback.format_exc())
    with suppress(BrokenPipeError):  # the server has been stopped
        sender.send(answer)
