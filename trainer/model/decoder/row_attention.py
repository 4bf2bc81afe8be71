"""Attention within rows of prefix trees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_BLOCK = 96
"""How many queries are computed together; PyTorch's kernel divides them among its threads in steps of 32."""
_LEAST = 64
"""A last block of fewer queries would cost more than it saves; it becomes part of the one before."""
_MASK_ALIGNMENT = 16
"""Rows of a mask begin at multiples of this; otherwise memory-efficient attention copies the mask in every layer."""


@dataclass(frozen=True, kw_only=True)
class QueryBlock:
    """Adjacent queries, and the keys that any of them attends to."""

    queries: slice
    keys: tuple[slice, ...]
    """Runs of adjacent keys, from left to right."""
    mask: Tensor
    """[R, 1, queries, keys] is added to scores: zero where a query attends to a key, else minus infinity."""


def query_blocks(attends: Tensor, dtype: torch.dtype) -> tuple[QueryBlock, ...]:
    """The blocks in which the attention of a pass's rows is computed; a single one on a GPU and for short rows.

    PyTorch's CPU kernel computes even what the mask excludes. With blocks, keys to which no query of the block attends
    in any row are left out: the tokens after the block, and most of other branches and trees.

    Args:
        attends: [R, 1, W, W] bool, whether a query attends to a key.
        dtype: The dtype of the scores.
    """
    width = attends.shape[-1]
    starts = range(0, max(1, width - _LEAST + 1), _BLOCK) if attends.device.type == "cpu" else [0]
    if len(starts) == 1:
        every = slice(0, width)
        return (QueryBlock(queries=every, keys=(every,), mask=_added(attends, dtype)),)
    blocks = []
    for start, end in zip(starts, [*starts[1:], width], strict=True):
        of_block = attends[:, :, start:end]
        keys = _runs(of_block.any(dim=2).flatten(0, 1).any(dim=0))
        mask = _added(_taken(of_block, keys, dim=3), dtype)
        blocks.append(QueryBlock(queries=slice(start, end), keys=keys, mask=mask))
    return tuple(blocks)


def row_attention(
    q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[QueryBlock], scale: float
) -> Tensor:
    """[R, heads, W, D] the attention of queries, keys and values of the same shape.

    Args:
        q: [R, heads, W, D]
        k: [R, heads, W, D]
        v: [R, heads, W, D]
        blocks: See `query_blocks`.
        scale: The factor on the products of queries and keys.
    """
    if len(blocks) == 1:
        return scaled_dot_product_attention(q, k, v, attn_mask=blocks[0].mask, scale=scale)
    out: Tensor = _InBlocks.apply(q, k, v, blocks, scale)  # type: ignore[no-untyped-call]
    return out


class _InBlocks(torch.autograd.Function):
    """See `row_attention`."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[QueryBlock], scale: float
    ) -> Tensor:
        """Compute each block by itself; its softmax is over all keys, so that results need not be combined."""
        out = torch.empty_like(q)
        log_sums = []
        for block in blocks:
            out[:, :, block.queries], log_sum = _FORWARD(
                q[:, :, block.queries],
                _taken(k, block.keys, dim=2),
                _taken(v, block.keys, dim=2),
                attn_mask=block.mask,
                scale=scale,
            )
            log_sums.append(log_sum)
        ctx.blocks, ctx.scale = blocks, scale
        ctx.save_for_backward(q, k, v, out, *log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values; those of a key are the sum over the blocks that attend to it."""
        q, k, v, out, *log_sums = ctx.saved_tensors
        grad_q = torch.empty_like(q)
        # In float32, since bfloat16 would round these sums after each of many blocks.
        dtype = torch.promote_types(k.dtype, torch.float32)
        grad_k, grad_v = (torch.zeros_like(x, dtype=dtype) for x in (k, v))
        for block, log_sum in zip(ctx.blocks, log_sums, strict=True):
            grad_q[:, :, block.queries], grad_keys, grad_values = _BACKWARD(
                grad[:, :, block.queries],
                q[:, :, block.queries],
                _taken(k, block.keys, dim=2),
                _taken(v, block.keys, dim=2),
                out[:, :, block.queries],
                log_sum,
                0.0,
                False,
                attn_mask=block.mask,
                scale=ctx.scale,
            )
            sizes = [run.stop - run.start for run in block.keys]
            for whole, part in ((grad_k, grad_keys), (grad_v, grad_values)):
                for run, gradients in zip(block.keys, part.split(sizes, dim=2), strict=True):
                    whole[:, :, run] += gradients
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None, None


def _runs(taken: Tensor) -> tuple[slice, ...]:
    """The slices in which a [W] bool is true."""
    bounds = pad(taken.int(), (1, 1)).diff().nonzero().flatten().tolist()
    return tuple(slice(*bound) for bound in zip(bounds[::2], bounds[1::2], strict=True))


def _taken(whole: Tensor, runs: Sequence[slice], *, dim: int) -> Tensor:
    parts = [whole.narrow(dim, run.start, run.stop - run.start) for run in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _added(attends: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as numbers to add to scores, made once for all layers; a bool mask would be converted in each."""
    width = attends.shape[-1]
    aligned = -(-width // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
    added = torch.zeros((*attends.shape[:-1], aligned), dtype=dtype, device=attends.device)
    return added[..., :width].masked_fill_(~attends, -torch.inf)
