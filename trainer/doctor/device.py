"""The GPU or the machine that a run would compute on."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from inference_server.wire.hardware.cpu import machine_memory_bytes
from inference_server.wire.hardware.prerequisites import Installed
from trainer.config.sections import DoctorConfig
from trainer.doctor.results import GIB, CheckResult, bad, note, ok

# From this compute capability (Ampere) on, GPUs have bfloat16 units.
_BFLOAT16_CAPABILITY = (8, 0)


@dataclass(frozen=True, kw_only=True)
class Card:
    """The memory that server and trainer share: a GPU's, or the machine's if there is no GPU."""

    on_gpu: bool
    memory_bytes: float
    used_bytes: float = 0.0
    """GPU memory in use by other processes now."""


def find_card(config: DoctorConfig) -> Card:
    """The GPU to plan for (``card_gib``), else the first GPU of PyTorch, else this machine."""
    if config.card_gib is not None:
        return Card(on_gpu=True, memory_bytes=config.card_gib * GIB)
    if config.device != "cpu" and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Card(on_gpu=True, memory_bytes=total, used_bytes=total - free)
    return Card(on_gpu=False, memory_bytes=machine_memory_bytes())


def driver_version() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.split()
    return lines[0] if lines else None


def check_device(config: DoctorConfig, installed: Installed) -> Iterator[CheckResult]:
    """The GPU and its driver, or why no GPU can be used; ``installed`` finds installed versions."""
    wants_gpu = config.device != "cpu"
    if config.card_gib is not None:
        text = f"planning for a GPU of {config.card_gib:g} GiB; this machine's was not checked"
        yield note("device", text)
    elif wants_gpu and torch.cuda.is_available():
        yield _gpu(driver_version(), dtype=config.policy.dtype)
    elif config.device == "cuda" or (wants_gpu and installed("vllm")):
        found = driver_version()
        if not installed("vllm"):
            why = "this is the CPU build"
        elif found is None:
            why = "there is no driver"
        else:
            why = f"driver {found} is too old for this CUDA"
        yield bad(
            "device",
            f"no GPU can be used: {why}",
            "in a container: the NVIDIA container toolkit and docker-compose.override.yml; "
            "elsewhere the driver, or run.device = cpu",
        )
    else:
        yield ok("device", f"CPU: {os.cpu_count()} cores, {machine_memory_bytes() / GIB:.1f} GiB")


def _gpu(driver: str | None, *, dtype: str) -> CheckResult:
    properties = torch.cuda.get_device_properties(0)
    text = (
        f"{properties.name}, {properties.total_memory / GIB:.1f} GiB, driver {driver}, "
        f"CUDA {torch.version.cuda}"
    )
    if dtype == "bfloat16" and (properties.major, properties.minor) < _BFLOAT16_CAPABILITY:
        text = f"{text}; bfloat16 is slow on it"
        return note("device", text, "a GPU of compute capability 8.0 or higher")
    return ok("device", text)
