"""Imported by the fork server alone, before it makes engines; see `inference_server.launch.engine_imports`."""

import ctypes
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

import torch  # noqa: E402
import vllm.v1.engine.core  # noqa: E402, F401

if torch.cuda.is_initialized():
    # A fork could not use the device. The server notices that this process has ended.
    raise RuntimeError("importing vLLM's engine has initialized CUDA")
