"""Logits of the output layer in float32, whatever the dtype of the model.

The server does the same (vLLM's ``head_dtype``). Rounded to bfloat16, logits would differ by a hundredth of a nat
from one computation to the next, which is more than a small update of the policy changes.
"""

from typing import Any

import torch
from torch import Tensor, nn

_CAST_WEIGHTS = 2**24
"""The most numbers of a half-precision head that are in memory as float32 at once (64 MiB), on a CPU."""


def float32_logits(head: nn.Linear, states: Tensor) -> Tensor:
    """[n, V] logits in float32, as the server computes them; those of a half-precision head stay unrounded."""
    # PEFT's wrapper adds an adapter's part in the head's own dtype.
    logits: Tensor = (
        _Float32Logits.apply(states, head.weight)  # type: ignore[no-untyped-call]
        if is_plain(head)
        else head(states).float()
    )
    return logits


class _Float32Logits(torch.autograd.Function):
    """`float32_product` with a gradient for the states; PyTorch has no gradient for a product with ``out_dtype``."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        """[n, V]; the weight [V, H] has no gradient."""
        ctx.save_for_backward(weight)
        return float32_product(states, weight)

    @staticmethod
    def backward(ctx: Any, grad_logits: Tensor) -> tuple[Tensor, None]:
        """[n, H] a product in the head's dtype, which accumulates in float32."""
        (weight,) = ctx.saved_tensors
        return grad_logits.to(weight.dtype) @ weight, None


def float32_product(states: Tensor, weight: Tensor) -> Tensor:
    """[n, V] products of numbers in the model's dtype, accumulated in float32 at least."""
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return nn.functional.linear(states, weight).float()
    if states.is_cuda:
        return torch.mm(states, weight.T, out_dtype=torch.float32)
    # The CPU has no such product. The head is cast in parts, so that only one part is in memory at a time.
    states, size = states.float(), max(1, _CAST_WEIGHTS // weight.shape[1])
    return torch.cat([states @ rows.float().T for rows in torch.split(weight, size)], dim=-1)


def scalars(head: nn.Linear, states: Tensor) -> Tensor:
    """[n] outputs of a head that has a single output, in full float32; see `set_product_precision`."""
    if states.is_cuda:
        # A matrix-vector product, also in the backward pass; TF32 is only for products of two matrices.
        return torch.addmv(head.bias, states, head.weight[0])
    values: Tensor = head(states).squeeze(-1)
    return values


def is_plain(head: nn.Linear) -> bool:
    """Whether the head is just its frozen weight, without bias and without PEFT's wrapper."""
    return type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
