"""The modules with Triton kernels, imported once there is a GPU."""

from functools import cache
from importlib import import_module
from typing import Any


@cache
def triton_module(name: str) -> Any:
    """One of this package; Triton comes with PyTorch's builds for a GPU only."""
    return import_module(f"trainer.model.kernels.{name}")
