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
