"""Attention within rows of prefix trees."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_BLOCK = 192
"""Queries that are computed together; PyTorch's kernel divides so many among its threads in steps of 64, fewer
of them in steps of 32, which take longer."""
_LEAST = 128
"""A last block of fewer queries would cost more than it spares, and belongs to the one before."""


def row_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """[R, heads, W, D] of queries, keys and values of that shape.

    A node of a tree attends to none that comes after it. On a CPU long rows are computed in blocks of queries,
    each with the keys up to its end, which leaves out up to half of the products; the kernel computes all that a
    mask takes away.

    Args:
        q: [R, heads, W, D]
        k: [R, heads, W, D]
        v: [R, heads, W, D]
        mask: [R, 1, W, W] added to the scores; minus infinity above the diagonal.
        scale: Of the products of queries and keys.
    """
    if q.device.type != "cpu" or q.shape[2] < _BLOCK + _LEAST:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    out: Tensor = _InBlocks.apply(q, k, v, mask, scale)  # type: ignore[no-untyped-call]
    return out


class _InBlocks(torch.autograd.Function):
    """See `row_attention`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
        """Each block's softmax is over all of its keys, so that nothing is put together afterwards."""
        out = torch.empty_like(q)
        log_sums = []
        for block, keys in _blocks(q.shape[2]):
            out[:, :, block], log_sum = _FORWARD(
                q[:, :, block],
                k[:, :, keys],
                v[:, :, keys],
                attn_mask=mask[:, :, block, keys],
                scale=scale,
            )
            log_sums.append(log_sum)
        ctx.scale = scale
        ctx.save_for_backward(q, k, v, mask, out, *log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values; the last block's are of all keys, the others' are added."""
        q, k, v, mask, out, *log_sums = ctx.saved_tensors
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (block, keys), log_sum in zip(_blocks(q.shape[2]), log_sums, strict=True):
            of_q[:, :, block], of_keys, of_values = _BACKWARD(
                grad[:, :, block],
                q[:, :, block],
                k[:, :, keys],
                v[:, :, keys],
                out[:, :, block],
                log_sum,
                0.0,
                False,
                attn_mask=mask[:, :, block, keys],
                scale=ctx.scale,
            )
            of_k[:, :, keys] += of_keys
            of_v[:, :, keys] += of_values
        return of_q, of_k, of_v, None, None


def _blocks(width: int) -> list[tuple[slice, slice]]:
    """Each block of queries with its keys."""
    starts = range(0, max(1, width - _LEAST + 1), _BLOCK)
    ends = [*starts[1:], width]
    return [(slice(*block), slice(block[1])) for block in zip(starts, ends, strict=True)]
