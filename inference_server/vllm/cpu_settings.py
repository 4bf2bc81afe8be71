"""How vLLM 0.32 runs on a CPU without dying, and at full speed. Loads neither torch nor vllm."""

import os
from collections.abc import Mapping

CPU_LORA_PLUGIN = "regime_w_cpu_lora"
"""Name of `inference_server.vllm.cpu_lora` among the plugins of vLLM."""

CPU_FLAGS: Mapping[str, str | None] = {
    "--dtype": "float32",
    "--enforce-eager": None,
    # The attention kernels refuse 16, and the default is slow.
    "--block-size": "32",
    # Chunked prefill and a seed in one batch kill the engine: "CPU Generator does not use offset".
    "--no-enable-chunked-prefill": None,
    "--max-num-batched-tokens": "8192",
    # A server's default is half of the offline engine's, and a step costs little more with twice as many.
    "--max-num-seqs": "256",
}

_THREADS_PAY_FROM_HIDDEN_SIZE = 256


def cpu_environment(hidden_size: int | None) -> dict[str, str]:
    """What vLLM's worker reads from its environment.

    A second thread costs some 70 µs for each operation if it has to be woken, more than an operation of a
    tiny model takes: such a model gets one. For larger ones all cores work; between two operations
    their threads wait about 0.1 ms before they sleep, long enough within a step and short enough beside
    a trainer. By itself vLLM leaves the worker one core of two, and its waiting threads spin.

    Scheduler and model share one process: in two, each spins while the other works, and on two cores
    nothing is left for the HTTP server. vLLM keeps them apart because the worker's threads are set up in
    its environment; here it is set up before either starts.

    Args:
        hidden_size: Of the model; None where its configuration does not say.
    """
    if hidden_size is not None and hidden_size < _THREADS_PAY_FROM_HIDDEN_SIZE:
        threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    else:
        last_core = (os.cpu_count() or 1) - 1
        threads = {"VLLM_CPU_OMP_THREADS_BIND": f"0-{last_core}", "GOMP_SPINCOUNT": "10000"}
    return {**threads, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
