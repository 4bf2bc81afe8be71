"""Settings with which vLLM 0.32 runs on a CPU reliably and fast. Loads neither torch nor vllm."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from inference_server.wire.hardware.cpu import CPU_MAX_BATCHED_TOKENS, CPU_MAX_NUM_SEQS

CPU_FLAGS: Mapping[str, str | None] = {
    "--dtype": "float32",
    "--enforce-eager": None,
    # The attention kernels reject 16, and the default is slow.
    "--block-size": "32",
    # Chunked prefill together with a seed kills the engine: "CPU Generator does not use offset".
    "--no-enable-chunked-prefill": None,
    "--max-num-batched-tokens": str(CPU_MAX_BATCHED_TOKENS),
    "--max-num-seqs": str(CPU_MAX_NUM_SEQS),
}

LIBRARIES_VARIABLE = "LD_PRELOAD"
_OPENMP = ("libomp", "libgomp", "libiomp")
_THREADS_PAY_FROM_HIDDEN_SIZE = 256


def cpu_environment(hidden_size: int | None, *, num_workers: int = 1) -> dict[str, str]:
    """Environment variables for vLLM's worker.

    Waking a second thread costs about 70 µs per operation, more than an operation of a tiny model takes, so
    such a model gets one thread. A larger model uses all cores; its threads wait about 0.1 ms between
    operations before they sleep, which is long enough within a step and short enough to leave the cores to a
    trainer. By default vLLM gives the worker one core of two, and its waiting threads spin.

    Scheduler and model run in one process: in two, each spins while the other works, which on two cores
    leaves nothing for the HTTP server. vLLM separates them because it sets up the worker's threads through
    the worker's environment; here the environment is set before either starts.

    Nothing is compiled: with ``--enforce-eager`` vLLM would still compile a line of its sampler, at the first
    request, which takes seconds and a C++ compiler and fails if the installation's path has a space.

    Args:
        hidden_size: Hidden size of the model; None if its configuration does not state it.
        num_workers: Processes that hold a part or a replica of the model; they share the cores.
    """
    if hidden_size is not None and hidden_size < _THREADS_PAY_FROM_HIDDEN_SIZE:
        threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    else:
        cores = _shared(os.cpu_count() or 1, num_workers)
        threads = {"VLLM_CPU_OMP_THREADS_BIND": cores, "GOMP_SPINCOUNT": "10000"}
    return {**threads, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCH_COMPILE_DISABLE": "1"}


def _shared(num_cores: int, num_workers: int) -> str:
    """The cores of each worker in vLLM's notation: adjacent ones, equally many for each worker."""
    each = max(1, num_cores // num_workers)
    firsts = [number * each % num_cores for number in range(num_workers)]
    return "|".join(f"{first}-{first + each - 1}" for first in firsts)


def loaded_first(libraries: str) -> str:
    """The value of ``LD_PRELOAD`` that vLLM sets for its worker on Linux: PyTorch's OpenMP and vLLM's allocator are added.

    Args:
        libraries: The value that the user set.
    """
    found = [library for library in libraries.split(":") if library]
    torch, vllm = (_folder(name) for name in ("torch", "vllm"))
    if torch is not None and not any(name in libraries for name in _OPENMP):
        folders = (torch.parent / "torch.libs", torch / "lib")
        found += [str(path) for folder in folders for path in folder.glob("libgomp*.so*")][:1]
    if vllm is not None and "libtcmalloc" not in libraries:
        patterns = ("libtcmalloc_minimal*.so*", "libtcmalloc.so*")
        allocators = [str(path) for pattern in patterns for path in (vllm / "libs").glob(pattern)]
        found = [*allocators[:1], *found]
    return ":".join(found)


def _folder(package: str) -> Path | None:
    """Where a package is, without importing it."""
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
