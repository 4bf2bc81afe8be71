"""The modules that the fork server imports leave it in a state of which an engine can be a fork."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

SCRIPT = """
import json, logging, sys, threading
import inference_server.launch.engine_modules
import torch
from vllm.platforms import current_platform

print(json.dumps({
    "device": "cpu" if current_platform.is_cpu() else "cuda" if current_platform.is_cuda() else None,
    "modules": list(sys.modules),
    "threads": [thread.name for thread in threading.enumerate()],
    "warns": logging.getLogger("vllm").isEnabledFor(logging.WARNING),
    "is_initialized": torch.cuda.is_initialized(),
    "is_in_bad_fork": torch.cuda._is_in_bad_fork(),
}))
"""
OWN = ("joined_outputs", "patches", "phases", "worker_replies")
INITIALIZE_CUDA = ("vllm.compilation.backends", "flashinfer")


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    pytest.importorskip("vllm")
    if torch.version.cuda is not None and not torch.cuda.is_available():
        pytest.skip("a build for a GPU without a GPU, of which no engine can be forked")
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return {**found, "log": result.stderr}


def test_the_worker_is_imported(state: dict[str, Any]) -> None:
    workers = {"cpu": "vllm.v1.worker.cpu_worker", "cuda": "vllm.v1.worker.gpu_worker"}
    if state["device"] is None:
        pytest.skip("vLLM finds no device that it was built for")
    ours = {f"inference_server.vllm.{name}" for name in OWN}
    assert {workers[state["device"]], *ours} <= set(state["modules"])


def test_the_imports_warn_of_nothing_and_engines_do(state: dict[str, Any]) -> None:
    assert "Triton not available" not in state["log"]  # PyTorch's warning on a machine without it
    assert state["warns"]


def test_neither_a_cuda_context_nor_a_thread_exists(state: dict[str, Any]) -> None:
    assert not state["is_initialized"]
    assert not state["is_in_bad_fork"]
    assert state["threads"] == ["MainThread"]


@pytest.mark.parametrize("module", INITIALIZE_CUDA)
def test_no_module_is_imported_that_initializes_cuda(state: dict[str, Any], module: str) -> None:
    if state["device"] != "cuda":
        pytest.skip("vLLM runs on no NVIDIA GPU here")
    assert module not in state["modules"]
