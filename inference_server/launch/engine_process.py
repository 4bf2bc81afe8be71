"""A process that Python's fork server makes, in the state that one started anew would have."""

import atexit
import ctypes
import logging
import os
import resource
import signal
import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, popen_forkserver, util
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Self

import structlog

_CUDA_TIMEOUT_S = 60
_MOST_THREADS = 1024
_log = structlog.get_logger()


def fork_server_pid() -> int | None:
    """Process id of the fork server; None if there is none, or if it has ended."""
    pid: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is None:
        return None
    try:
        # The fork server's own code collects its exit status.
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return pid if ended is None else None


def end_fork_server() -> None:
    """Ends it, since it holds hundreds of megabytes; does nothing if there is none."""
    if (pid := fork_server_pid()) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def forks_can_use_cuda() -> bool:
    """Whether CUDA can be initialized in a fork of this process; True where it is not installed."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_CUDA_TIMEOUT_S)
        result = 0
        with suppress(OSError):  # no driver
            result = ctypes.CDLL("libcuda.so.1").cuInit(0)
        # PyTorch has a flag of its own, which any question for the number of devices sets.
        torch = sys.modules.get("torch")
        is_refused = torch is not None and torch.cuda._is_in_bad_fork()
        os._exit(result != 0 or is_refused)
    _, status = os.waitpid(pid, 0)
    return status == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inherited:
    """What a new program would inherit from the process that starts it."""

    environment: dict[str, str]
    open_files: tuple[int, int]
    """Soft and hard limit."""

    @classmethod
    def of_this_process(cls) -> Self:
        return cls(
            environment=dict(os.environ),
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        )

    def take_over(self) -> None:
        """In the fork: the same environment and limit of open files, and no signal handler of the fork server's."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with suppress(OSError, ValueError):  # the hard limit may be lowered, not raised
            resource.setrlimit(resource.RLIMIT_NOFILE, self.open_files)
        name = "OMP_NUM_THREADS"
        before, now = os.environ.get(name, ""), self.environment.get(name, "")
        os.environ.clear()
        os.environ.update(self.environment)
        if now != before and now.isdecimal() and 0 < int(now) <= _MOST_THREADS:
            # PyTorch has read the variable already, and vLLM sets it just for the engine's start.
            import torch  # noqa: PLC0415

            torch.set_num_threads(int(now))


class _Popen(popen_forkserver.Popen):
    """Watches the process itself: Python watches a pipe of the fork server's, whose end would look like the engine's."""

    def __init__(self, process_obj: BaseProcess) -> None:
        """Starts the process."""
        super().__init__(process_obj)
        self._exit_code_fd: int | None = None
        # Not every system has such descriptors, and the process may have ended already.
        with suppress(AttributeError, OSError):
            process_fd = os.pidfd_open(self.pid)
            util.Finalize(self, os.close, (process_fd,))
            self._exit_code_fd, self.sentinel = self.sentinel, process_fd

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code; None while the process runs, 255 if the fork server, which would know it, has ended."""
        if self._exit_code_fd is None:
            return super().poll(flag)
        if self.returncode is None and wait([self.sentinel], 0 if flag == os.WNOHANG else None):
            try:
                self.returncode = forkserver.read_signed(self._exit_code_fd)
            except (EOFError, OSError):
                self.returncode = 255
        return self.returncode


class EngineProcess(ForkServerProcess):
    """A fork of the fork server, or a process started anew if that has ended."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled so that the environment is set before the process's own state is read."""
        return _restored, (_Inherited.of_this_process(), bytes(ForkingPickler.dumps(vars(self))))

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        """Runs the process; then its exit handlers, which a fork server's processes skip before Python 3.13."""
        try:
            exit_code: int = super()._bootstrap(parent_sentinel)  # type: ignore[misc]  # not in the stubs
            return exit_code
        finally:
            if sys.version_info < (3, 13):
                atexit._run_exitfuncs()

    @staticmethod
    def _Popen(process: BaseProcess) -> Any:
        try:
            # Asked for a process, a fork server that has ended would start again, import again and end again.
            if fork_server_pid() is not None:
                return _Popen(process)
            reason = "the fork server has ended"
        except (EOFError, OSError) as error:
            reason = f"no process from the fork server: {error!r}"
        end_fork_server()
        _log.warning("engine_not_forked", reason=reason)
        return SpawnProcess._Popen(process)


def _restored(inherited: _Inherited, state: bytes) -> EngineProcess:
    inherited.take_over()
    if sys.version_info >= (3, 13):
        # There, the fork server's processes forget the handlers of the modules that it imported.
        atexit.register(logging.shutdown)
        atexit.register(weakref.finalize._exitfunc)
    process = EngineProcess.__new__(EngineProcess)
    vars(process).update(ForkingPickler.loads(state))
    return process
