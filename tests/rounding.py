"""How far a float32 result may lie from the exact one, and float64 results to judge it by."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch


def rounding_bound(num_terms: int, scale: float) -> float:
    """Bound on the rounding error of a float32 sum, whatever the order in which a CPU adds it up.

    Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1: n·u/(1 - n·u) of the
    size of the terms, with u half of eps. The other half is for the operands, which are rounded too.

    Args:
        num_terms: Terms of the longest sum that the result depends on.
        scale: The largest size of the exact result.
    """
    return num_terms * torch.finfo(torch.float32).eps * scale


@contextmanager
def in_float64() -> Iterator[None]:
    """Tensors made within are float64, even those that the code under test makes float32.

    Only the norms of transformers' models remain float32.
    """
    with default_dtype(torch.float64), patch.object(torch.Tensor, "float", torch.Tensor.double):
        yield


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors made within are of ``dtype`` unless another dtype is given."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
