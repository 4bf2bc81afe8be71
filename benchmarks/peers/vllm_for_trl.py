"""vLLM's own server, set up as AsyncGRPOTrainer needs it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.vllm_server import vllm_server
from inference_server.vllm.cpu.settings import cpu_environment

FLAGS = (
    *("--max-model-len", "512", "--max-lora-rank", "16", "--max-loras", "3"),
    *("--generation-config", "vllm"),
)


@contextmanager
def vllm_for_trl(model: Path, folder: Path) -> Iterator[str]:
    """vLLM's own server as TRL needs it: it loads adapters at run time and has the routes that pause it."""
    environment = {
        **without_thread_limit(),
        **cpu_environment(hidden_size=None),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_PLUGINS": "",
        "VLLM_SERVER_DEV_MODE": "1",
    }
    with vllm_server(model, folder / "vllm.log", *FLAGS, environment=environment) as url:
        yield url


def without_thread_limit() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
