"""vLLM's own server, set up as AsyncGRPOTrainer needs it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from inference_server.launch.server_process import free_port
from inference_server.vllm.cpu.settings import cpu_environment

VLLM_FLAGS = (
    *("--dtype", "float32", "--enforce-eager", "--block-size", "32", "--no-enable-chunked-prefill"),
    *("--max-num-batched-tokens", "8192", "--max-num-seqs", "256", "--max-model-len", "512"),
    *("--enable-lora", "--max-lora-rank", "16", "--max-loras", "3"),
    *("--generation-config", "vllm"),
)
VLLM_START_TIMEOUT_S = 300.0


@contextmanager
def vllm_server(model: Path, folder: Path) -> Iterator[str]:
    """vLLM's own server as TRL needs it: it loads adapters at run time and has the routes that pause it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    environment = {
        **without_thread_limit(),
        **cpu_environment(hidden_size=None),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_PLUGINS": "",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    }
    with (
        (folder / "vllm.log").open("w") as log,
        subprocess.Popen(
            [*command, "--port", str(port), *VLLM_FLAGS],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + VLLM_START_TIMEOUT_S
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"vLLM did not start: see {folder / 'vllm.log'}")
                try:
                    if httpx.get(f"{url}/health", trust_env=False).is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.5)
            yield url
        finally:
            process.terminate()


def without_thread_limit() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
