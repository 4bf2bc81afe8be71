"""Imported by the fork server alone, before it makes engines; see `inference_server.launch.engine_imports`."""

import ctypes
import signal
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1

# Ctrl-C goes to every process of a terminal, systemd's SIGTERM to every one of a unit. The server handles both, and needs
# this process until its engine has ended.
for stop in (signal.SIGINT, signal.SIGTERM):
    signal.signal(stop, signal.SIG_IGN)
# The kernel ends it with the server, also while it imports. Forks do not inherit this: engines end by `end_with_parent`.
ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

with suppress(ImportError):  # it is optional in vLLM
    import setproctitle

    # Its first call finds where the title is, and needs the environment as it was at the start; a fork's is changed.
    setproctitle.setproctitle("regime-w fork server")

# Where this process ends, the server notices and starts the engine anew.
try:
    import vllm.v1.engine.core  # noqa: F401, I001 - before torch, for which it sets variables
    import torch

    from inference_server.launch.engine_process import forks_can_use_cuda
except ImportError as error:  # the fork server would go on without these modules
    sys.exit(f"the engine's modules cannot be imported: {error}")
if torch.version.cuda is not None and not forks_can_use_cuda():
    sys.exit("a fork of the process that imported vLLM's engine cannot use CUDA")
