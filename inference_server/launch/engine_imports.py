"""Imports the engine's modules in a second process while the server imports them, and forks the engine from there.

vLLM's engine is a process of its own, which vLLM starts when it knows the configuration. This process would then import
thousands of modules, as the server did before it: with a tiny model these are 8 of the 17 s until the server answers.
Python's fork server imports them at the same time as the server does. It runs nothing else and does not use the device,
so that its forks can use it. Where that does not work, vLLM starts the engine as it would without this module.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any, Self

import structlog

from inference_server.launch.engine_inspection import inspect_in_forks
from inference_server.launch.engine_process import EngineProcess, end_fork_server

METHOD_VARIABLE = "VLLM_WORKER_MULTIPROC_METHOD"
"""With it, the user chooses how vLLM starts processes; vLLM itself sets it later."""
_MODULES = ("inference_server.launch.engine_modules",)
# Too late for a fork of a process that had another value: the dynamic linker reads the first when a program starts, and
# vLLM's modules the second while they are imported; the server sets it for some models.
_EARLY_VARIABLES = ("LD_PRELOAD", "VLLM_USE_BREAKABLE_CUDAGRAPH")
# With it, importing vLLM puts CUDA's compatibility libraries into LD_LIBRARY_PATH, where only programs that start later
# look for them. Any other change of that path is by a module for programs that it starts: OpenCV makes one.
_COMPATIBILITY_VARIABLE = "VLLM_ENABLE_CUDA_COMPATIBILITY"
_log = structlog.get_logger()


class EngineImports:
    """The running fork server.

    Args:
        environment: What it was started with, of the variables that matter while modules are imported; None for one
            that was not set.
    """

    def __init__(self, environment: Mapping[str, str | None]) -> None:
        """See the class."""
        self._environment = environment

    @classmethod
    def start(
        cls, environment: Mapping[str, str], modules: Sequence[str] = _MODULES
    ) -> Self | None:
        """Starts to import, and returns at once; None if no engine can come from a fork server.

        Args:
            environment: Variables to import with; they need not be this process's.
            modules: What to import.
        """
        if os.environ.get(_COMPATIBILITY_VARIABLE, "0").strip().lower() in ("1", "true"):
            _log.info("engine_not_forked", reason=_COMPATIBILITY_VARIABLE)
            return None
        multiprocessing.set_forkserver_preload(list(modules))
        early = {name: os.environ.get(name) for name in _EARLY_VARIABLES}
        try:
            # The fork server is `python -c`, which would look for modules in the current folder first.
            path = os.pathsep.join(map(os.path.abspath, sys.path))
            with _changed({**environment, "PYTHONSAFEPATH": "1", "PYTHONPATH": path}):
                forkserver.ensure_running()
        except OSError as error:  # no socket can be bound in the folder for temporary files
            _log.info("engine_not_forked", reason=f"no fork server: {error}")
            return None
        return cls({**early, **environment})

    def use(self) -> None:
        """Makes vLLM start its engines from the fork server, and inspect the class of the model there."""
        # Not at the top: this module is imported before vLLM.
        from vllm.platforms.interface import in_wsl  # noqa: PLC0415
        from vllm.v1.engine import utils  # noqa: PLC0415

        if in_wsl():  # NVML does not work in a fork there, according to vLLM
            self.end("WSL")
            return
        original = utils.get_mp_context
        utils.get_mp_context = lambda: self.context(original())
        inspect_in_forks()

    def context(self, context: Any) -> Any:
        """How to start an engine: from the fork server, or by vLLM's own ``context`` if that is not the same."""
        other = [name for name, value in self._environment.items() if os.environ.get(name) != value]
        if not other:
            return _EngineContext()
        self.end(other)
        return context

    def end(self, reason: object) -> None:
        """Ends the fork server since no engine comes from it, and logs the reason."""
        _log.info("engine_not_forked", reason=reason)
        end_fork_server()


class _EngineContext(ForkServerContext):
    Process = EngineProcess


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
