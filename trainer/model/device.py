"""The device that a trainer computes on, and what it has to compute alike every time."""

import torch
from torch import Tensor, nn

from trainer.config.sections import Device
from trainer.errors import UsageError

MARGIN = 0.02
"""Part of a GPU's memory for what PyTorch does not count: libraries' workspaces, and a context that grows."""


_OUT_OF_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
)
"""In messages of errors that have no class of their own."""


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
    """Decide for this process what float32 matrix products on a GPU round their inputs to; nothing on a CPU.

    To TF32, which keeps 10 bits of the 23, beside a base of 16 bits: what is multiplied in float32 there
    are PEFT's adapters, where layers are not ours (QLoRA, unknown layers), and what the server multiplies
    with has 7 or 10 bits. While all layers were PEFT's, a step at the 1.5B preset's shape took 31 s so, else 35.

    Full float32 stay

    - all products of a base in float32: whoever asks for it wants its logprobs,
    - logits of a 16-bit head (`trainer.model.head`), whose inputs are exact and sums float32 whatever is set
      here, so that logprobs, and the proof of sync, lose nothing,
    - the critic's value head (`trainer.model.head.scalars`), whose errors would be those of all advantages.

    Args:
        device: Where the trainer computes.
        dtype: The base's.
    """
    if device.type == "cuda":
        is_full = dtype in (torch.float32, torch.float64)
        torch.backends.cuda.matmul.fp32_precision = "ieee" if is_full else "tf32"


def gathered(values: Tensor, indices: Tensor) -> Tensor:
    """``values[indices]`` with a gradient that is the same to the last bit every time.

    Indices repeat: a prompt's last state is the one before the first token of each of its completions. On a CPU
    the backward pass of plain indexing adds such gradients by several threads in no fixed order, so a run's
    digests could not be recomputed. That of an embedding adds them in the order of the indices, and is
    faster (`benchmarks/README.md`, "A PPO step").

    Args:
        values: [S, H] or [S].
        indices: Of any shape.

    Returns:
        The indices' shape, and H where the values have it.
    """
    if values.dim() == 1:
        return nn.functional.embedding(indices, values.unsqueeze(-1)).squeeze(-1)
    return nn.functional.embedding(indices, values)


def leave_memory_to_others(device: torch.device) -> None:
    """Keep this process within the GPU memory that is free now, but for a margin; nothing without a GPU.

    What is in use is the server's. Where it ends and starts again beside this process, it finds that free.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(max(0.0, free / total - MARGIN))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory did not suffice, also for what CUDA's libraries allocate beside PyTorch's allocator."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
