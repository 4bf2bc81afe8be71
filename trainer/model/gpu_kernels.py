"""Elementwise parts of a decoder layer on a GPU, each of them one kernel, which torch.compile makes.

To PyTorch each is a single operation (`torch.library.custom_op`): checkpointing, profilers and traces without
data see its inputs and outputs only. The number of tokens is symbolic, so that rows of other widths compile
nothing again. On a CPU `trainer.model.fused` computes the same.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu


@torch.library.custom_op("regime_w::swiglu", mutates_args=(), device_types="cuda")
def swiglu(gate_up: Tensor) -> Tensor:
    """[T, I] ``silu(gate) · up`` from [T, 2·I], the two side by side."""
    out: Tensor = _compiled(swiglu_of)(gate_up)
    return out


@swiglu.register_fake
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty((len(gate_up), gate_up.shape[1] // 2))


@torch.library.custom_op("regime_w::swiglu_gradient", mutates_args=(), device_types="cuda")
def swiglu_gradient(gate_up: Tensor, grad: Tensor) -> Tensor:
    """[T, 2·I] the gradient of `swiglu`'s input from that of its output, [T, I]."""
    out: Tensor = _compiled(swiglu_gradient_of)(gate_up, grad)
    return out


@swiglu_gradient.register_fake
def _(gate_up: Tensor, grad: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


@torch.library.custom_op("regime_w::rotate_heads", mutates_args=(), device_types="cuda")
def rotate_heads(
    heads: Tensor, values: Tensor, cos: Tensor, sin: Tensor, num_q: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [T, heads of queries, D].

    Args:
        heads: [T, heads, D] of queries, then of keys.
        values: [T, heads of keys, D]
        cos: [T, 1, D] the same number in both halves.
        sin: [T, 1, D] the same numbers, in the first half times -1.
        num_q: How many heads are of queries.
    """
    q, k, v = _compiled(rotated_heads)(heads, values, cos, sin, num_q)
    return q, k, v


@rotate_heads.register_fake
def _(
    heads: Tensor, values: Tensor, cos: Tensor, sin: Tensor, num_q: int
) -> tuple[Tensor, Tensor, Tensor]:
    num_tokens, _, head_dim = heads.shape
    q, k, v = (heads.new_empty((num_tokens, num_q, head_dim)) for _ in range(3))
    return q, k, v


@torch.library.custom_op("regime_w::rotate_heads_gradient", mutates_args=(), device_types="cuda")
def rotate_heads_gradient(
    of_q: Tensor, of_k: Tensor, of_v: Tensor, cos: Tensor, sin: Tensor, num_k: int
) -> Tensor:
    """[T, heads of queries, keys and values, D] the gradient of `rotate_heads`' inputs, side by side.

    Args:
        of_q, of_k, of_v: Each [T, heads of queries, D].
        cos, sin: As there.
        num_k: How many heads are of keys.
    """
    out: Tensor = _compiled(rotated_heads_gradient)(of_q, of_k, of_v, cos, sin, num_k)
    return out


@rotate_heads_gradient.register_fake
def _(of_q: Tensor, of_k: Tensor, of_v: Tensor, cos: Tensor, sin: Tensor, num_k: int) -> Tensor:
    num_tokens, num_q, head_dim = of_q.shape
    return of_q.new_empty((num_tokens, num_q + 2 * num_k, head_dim))


# --- what is compiled --------------------------------------------------------------------------------


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled when it is first called: importing the compiler takes seconds."""
    compiled: Callable[..., Any] = torch.compile(function, dynamic=True, fullgraph=True)
    return compiled


def swiglu_of(gate_up: Tensor) -> Tensor:
    """See `swiglu`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up


def swiglu_gradient_of(gate_up: Tensor, grad: Tensor) -> Tensor:
    """See `swiglu_gradient`: float32 at least, rounded at the end."""
    gate, up = (_wide(t) for t in gate_up.chunk(2, dim=-1))
    sigmoid, wide = gate.sigmoid(), _wide(grad)
    of_gate = wide * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat([of_gate, wide * gate * sigmoid], dim=-1).to(grad.dtype)


def rotated_heads(
    heads: Tensor, values: Tensor, cos: Tensor, sin: Tensor, num_q: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `rotate_heads`."""
    times = num_q // values.shape[1]
    rotated = (_wide(heads) * cos + _wide(_halves_swapped(heads)) * sin).to(heads.dtype)
    q, k = rotated[:, :num_q], rotated[:, num_q:]
    repeated_k, repeated_v = (x.repeat_interleave(times, dim=1) for x in (k, values))
    return q.clone(), repeated_k, repeated_v


def rotated_heads_gradient(
    of_q: Tensor, of_k: Tensor, of_v: Tensor, cos: Tensor, sin: Tensor, num_k: int
) -> Tensor:
    """See `rotate_heads_gradient`: that of a repeated head is the sum of its copies'."""
    of_k, of_v = (_wide(x).unflatten(1, (num_k, -1)).sum(dim=2) for x in (of_k, of_v))
    rotated = torch.cat([_wide(of_q), of_k], dim=1)
    rotated = rotated * cos - _halves_swapped(rotated) * sin
    return torch.cat([rotated, of_v], dim=1).to(of_q.dtype)


def _halves_swapped(x: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return torch.cat([high, low], dim=-1)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
