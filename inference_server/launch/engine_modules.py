"""Imported by the fork server alone, before it makes engines; see `inference_server.launch.engine_imports`."""

import ctypes
import logging
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module

_PR_SET_PDEATHSIG = 1
# What the engine would import next, when it has begun. Not vllm.compilation.backends and flashinfer: they initialize CUDA.
_BY_EVERY_ENGINE = (
    "inference_server.vllm.joined_outputs",
    "inference_server.vllm.patches",
    "vllm.v1.core.sched.async_scheduler",
)
_ON_CPU = ("vllm.v1.worker.cpu_worker",)
_ON_GPU = ("vllm.v1.worker.gpu_worker", "inference_server.vllm.gpu_lora")

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

# A library of kernels for quantized models would start two programs while it is imported, which compile some of them.
# With this it compiles them when a model needs them. Forks have the server's environment instead.
os.environ["HUMMING_DISABLE_PARALLEL_BUILD"] = "1"

# A warning of a module could follow the last line of a server that ends meanwhile, and hide why it did.
logging.disable(logging.WARNING)

# Where this process ends, the server notices and starts the engine anew.
try:
    import vllm.v1.engine.core  # noqa: F401, I001 - before torch, for which it sets variables
    import torch
    from vllm.platforms import current_platform

    from inference_server.launch.engine_process import forks_can_use_cuda

    on_cpu = _ON_CPU if current_platform.is_cpu() else ()
    on_gpu = _ON_GPU if current_platform.is_cuda() else ()
    for name in (*_BY_EVERY_ENGINE, *on_cpu, *on_gpu):
        import_module(name)
except ImportError as error:  # the fork server would go on without these modules
    sys.exit(f"the engine's modules cannot be imported: {error}")
if torch.version.cuda is not None and not forks_can_use_cuda():
    sys.exit("a fork of the process that imported vLLM's engine cannot use CUDA")
logging.disable(logging.NOTSET)
