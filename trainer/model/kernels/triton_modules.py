"""Imports the modules with Triton kernels only where there is a GPU."""

from functools import cache
from importlib import import_module
from typing import Any


@cache
def triton_module(name: str) -> Any:
    """A module of this package, imported when it is needed: Triton comes only with PyTorch's builds for a GPU."""
    return import_module(f"trainer.model.kernels.{name}")
