"""PyTorch's threads within a test; otherwise a test has one thread (`tests/conftest.py`)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """A block in which PyTorch computes on ``num_threads`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
