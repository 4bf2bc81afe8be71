"""The device that a trainer computes on."""

import torch

from trainer.config.sections import Device
from trainer.errors import UsageError


def compute_device(device: Device) -> torch.device:
    """The device for a configuration's ``run.device``.

    Raises:
        UsageError: It is ``cuda``, and this machine has no CUDA GPU.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("run.device is cuda, but this machine has no CUDA GPU; use auto or cpu")
    return torch.device(device)


def leave_memory_to_others(device: torch.device) -> None:
    """Keep this process within the GPU memory that is free now; nothing without a GPU.

    What is in use is the server's. Where it ends and starts again beside this process, it finds that free.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(free / total)
