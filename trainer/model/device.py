"""The device that a trainer computes on: its precision, its memory, and indexing with reproducible gradients."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from trainer.config.sections import Device
from trainer.errors import OutOfMemoryError, UsageError

_T = TypeVar("_T")

MARGIN = 0.02
"""The share of a GPU's memory kept for what PyTorch does not count: libraries' workspaces, and a growing context."""


_OUT_OF_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
)
"""Texts in the messages of out-of-memory errors that have no class of their own."""


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


def set_product_precision(device: torch.device, dtype: torch.dtype) -> None:
    """Set for this process how float32 matrix products on a GPU round their inputs; does nothing on a CPU.

    With a 16-bit base, they round to TF32, which keeps 10 of the 23 bits. This affects the products of PEFT's
    adapters, in layers that `trainer.model.decoder` does not compute (QLoRA, unknown layers); the numbers that the
    server multiplies with have only 7 or 10 bits. When PEFT computed all layers, a step at the 1.5B preset's shape
    took 31 s with TF32 and 35 s without.

    These products stay in full float32:

    - all products of a float32 base: whoever asks for float32 wants its logprobs,
    - the logits of a 16-bit head (`trainer.model.head`): their inputs are exact and their sums float32 whatever is
      set here, so that logprobs and the weight-sync check lose no precision,
    - the critic's value head (`trainer.model.head.scalars`): its errors would be in all advantages.

    Args:
        device: The device on which the trainer computes.
        dtype: The base's dtype.
    """
    if device.type == "cuda":
        is_full = dtype in (torch.float32, torch.float64)
        torch.backends.cuda.matmul.fp32_precision = "ieee" if is_full else "tf32"


def gathered(values: Tensor, indices: Tensor) -> Tensor:
    """``values[indices]`` with a gradient that is the same to the last bit every time.

    Indices repeat: a prompt's last state is the one before the first token of each of its completions. On a CPU,
    the backward pass of plain indexing adds such gradients with several threads in no fixed order, so that a run's
    digests could not be recomputed. The backward pass of an embedding adds them in the order of the indices, and is
    faster (`benchmarks/README.md`, "A PPO step").

    Args:
        values: [S, H] or [S].
        indices: Of any shape.

    Returns:
        A tensor in the shape of the indices, followed by H if the values have it.
    """
    if values.dim() == 1:
        return nn.functional.embedding(indices, values.unsqueeze(-1)).squeeze(-1)
    return nn.functional.embedding(indices, values)


def limit_gpu_memory(device: torch.device) -> None:
    """Limit this process to the GPU memory that is free now, minus a margin; does nothing without a GPU.

    The memory in use is the server's. If the server restarts while this process runs, it finds that memory free.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(max(0.0, free / total - MARGIN))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU ran out of memory, in PyTorch's allocator or in an allocation by CUDA's libraries."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def halved_if_out_of_memory(work: Callable[[int], _T], token_budget: int) -> tuple[_T, int]:
    """Do some work; if the GPU runs out of memory, do it once more with micro-batches of half the size.

    Args:
        work: Gets the most tokens of a micro-batch; must be able to start anew after it has failed.
        token_budget: The most tokens of a micro-batch at first.

    Returns:
        What ``work`` returns, and the size that did fit.

    Raises:
        OutOfMemoryError: Half the size does not fit either.
    """
    try:
        return work(token_budget), token_budget
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside the except block the error is gone; its traceback kept alive what the failed work had allocated.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = max(1, token_budget // 2)
    try:
        return work(half), half
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(half) from None
