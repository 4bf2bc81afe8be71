"""Imported by the fork server alone, before it makes engines; see `inference_server.launch.engine_imports`."""

import ctypes
import os
import signal
from contextlib import suppress

_PR_SET_PDEATHSIG = 1

# Ctrl-C goes to every process of the terminal; the server ends this one.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# The kernel ends it with the server, also while it imports. Forks do not inherit this: engines end by `end_with_parent`.
ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

with suppress(ImportError):  # it is optional in vLLM
    import setproctitle

    # Its first call finds where the title is, and needs the environment as it was at the start; a fork's is changed.
    setproctitle.setproctitle("regime-w fork server")

import vllm.v1.engine.core  # noqa: E402, F401


def forks_can_use_cuda() -> bool:
    """Whether CUDA can be initialized in a fork of this process; True where there is none."""
    pid = os.fork()
    if pid == 0:
        result = 0
        with suppress(OSError):  # no driver
            result = ctypes.CDLL("libcuda.so.1").cuInit(0)
        os._exit(min(result, 1))
    _, status = os.waitpid(pid, 0)
    return status == 0


if not forks_can_use_cuda():
    # Some module has initialized it here. The server notices that this process has ended.
    raise RuntimeError("a fork of the process that imported vLLM's engine cannot use CUDA")
