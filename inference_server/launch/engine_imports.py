"""Imports the engine's modules in a second process while the server imports them, and forks the engine from there.

vLLM's engine is a process of its own, which vLLM starts when it knows the configuration. This process would then import
thousands of modules, as the server did before it: with a tiny model these are 8 of the 18 s until the server answers.
Python's fork server imports them at the same time as the server does. It runs nothing else and does not use the device,
so that a fork of it can. Where that does not work, vLLM starts the engine as it would without this module.
"""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Any, Self

import structlog

METHOD_VARIABLE = "VLLM_WORKER_MULTIPROC_METHOD"
"""With it, the user chooses how vLLM starts processes."""
_MODULES = ("inference_server.vllm.engine_modules",)
_log = structlog.get_logger()


class EngineImports:
    """The running fork server.

    Args:
        environment: What it was started with, of the variables that matter while modules are imported.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """See the class."""
        self._environment = environment

    @classmethod
    def start(cls, environment: Mapping[str, str], modules: Sequence[str] = _MODULES) -> Self:
        """Starts to import, and returns at once.

        Args:
            environment: Variables to import with; they need not be this process's.
            modules: What to import.
        """
        multiprocessing.set_forkserver_preload(list(modules))
        with _changed(environment):
            forkserver.ensure_running()
        return cls(environment)

    def use(self) -> None:
        """Makes vLLM start its engines from the fork server."""
        # Not at the top: this module is imported before vLLM.
        from vllm.v1.engine import utils  # noqa: PLC0415

        original = utils.get_mp_context
        utils.get_mp_context = lambda: self.context(original())

    def context(self, context: Any) -> Any:
        """How to start an engine: from the fork server, or by vLLM's own ``context`` if that is not the same."""
        other = [name for name, value in self._environment.items() if os.environ.get(name) != value]
        if other:
            _log.info("engine_imports_again", because_of=other)
            return context
        return _EngineContext()


def forks_can_use_cuda() -> bool:
    """Whether CUDA can be initialized in a fork of this process; True where it is not installed."""
    pid = os.fork()
    if pid == 0:
        result = 0
        with suppress(OSError):  # no driver
            result = ctypes.CDLL("libcuda.so.1").cuInit(0)
        os._exit(min(result, 1))
    _, status = os.waitpid(pid, 0)
    return status == 0


class _EngineProcess(ForkServerProcess):
    """A fork of the fork server, with the environment of the process that asks for it."""

    def start(self) -> None:
        """Starts it with the environment of this moment."""
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        """In the new process, which the fork server's signal handlers are not for."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(self._environment)
        if (num_threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
            # PyTorch has read the variable already, and vLLM sets it just for the engine's start.
            import torch  # noqa: PLC0415

            torch.set_num_threads(int(num_threads))
        super().run()

    @staticmethod
    def _Popen(process: BaseProcess) -> Any:
        try:
            return ForkServerProcess._Popen(process)
        except (EOFError, OSError) as error:
            _log.warning("engine_imports_again", because_of=f"the fork server has ended: {error!r}")
            return SpawnProcess._Popen(process)


class _EngineContext(ForkServerContext):
    Process = _EngineProcess


@contextmanager
def _changed(environment: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
