"""Parts of a decoder layer with their gradients, in few operations each.

On a GPU, each part is a kernel of `trainer.model.kernels`. On a CPU, each consists of as few PyTorch operations as
possible. A part saves only what its backward pass needs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from trainer.model.decoder.norm import first_columns
from trainer.model.kernels.triton_modules import triton_module


def swiglu(gate_up: Tensor, num_free: int) -> Tensor:
    """[T, I + num_free] ``silu(gate) · up`` from [T, 2·I]; only this input is saved for the backward pass.

    The last ``num_free`` columns are not set; see `RMSNorm.with_residual`.
    """
    out: Tensor = _SwiGLU.apply(gate_up, num_free)  # type: ignore[no-untyped-call]
    return out


class _SwiGLU(torch.autograd.Function):
    """See `swiglu`."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, num_free: int) -> Tensor:
        """[T, I + num_free] from [T, 2·I]."""
        ctx.save_for_backward(gate_up)
        width = gate_up.shape[1] // 2
        out = gate_up.new_empty((len(gate_up), width + num_free))
        if gate_up.is_cuda:
            triton_module("elementwise").swiglu(gate_up, out)
        else:
            gate, up = gate_up.chunk(2, dim=-1)
            torch.mul(silu(gate), up, out=first_columns(out, width))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """[T, 2·I] the gradient; both halves are written in place."""
        (gate_up,) = ctx.saved_tensors
        if gate_up.is_cuda:
            return triton_module("elementwise").swiglu_gradient(gate_up, grad), None
        gate, up = gate_up.chunk(2, dim=-1)
        both = torch.empty_like(gate_up)
        grad_gate, grad_up = both.chunk(2, dim=-1)
        grad = first_columns(grad, gate.shape[1])
        torch.mul(grad, silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return both, None


def attention_heads(
    heads: Tensor, values: Tensor | None, cos: Tensor, sin: Tensor, num_heads: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as attention takes them, each [R, query heads, W, D].

    Queries and keys are rotated by their positions (Su et al. 2021, RoFormer); keys and values are repeated
    if several query heads share them.

    Args:
        heads: [R, W, heads, D] query heads, then key heads, then value heads unless ``values`` is given.
        values: [R, W, key heads, D]
        cos: [R, W, 1, D] the same numbers in both halves.
        sin: [R, W, 1, D] the same numbers in both halves, but negated in the first.
        num_heads: The numbers of query heads and of key heads.
    """
    out: tuple[Tensor, Tensor, Tensor] = _Heads.apply(heads, values, cos, sin, num_heads)  # type: ignore[no-untyped-call]
    return out


class _Heads(torch.autograd.Function):
    """See `attention_heads`."""

    @staticmethod
    def forward(
        ctx: Any,
        heads: Tensor,
        values: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        num_heads: tuple[int, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotate queries and keys, repeat keys and values, and put the heads' dimension before the tokens'."""
        num_q, num_k = num_heads
        ctx.num_heads, ctx.rotation = num_heads, (cos, sin)
        ctx.together = values is None
        if values is None:
            heads, values = heads.split([num_q + num_k, num_k], dim=2)
        if heads.is_cuda:
            turned: tuple[Tensor, Tensor, Tensor] = triton_module("heads").rotate_heads(
                heads, values, cos, sin, num_q
            )
            return turned
        rotated = (heads * cos).addcmul_(_halves_swapped(heads), sin)
        q, k = rotated.split([num_q, num_k], dim=2)
        if num_q > num_k:
            k, v = (_repeated(x, num_q // num_k) for x in (k, values))
        else:
            # A view would keep the whole tensor of which it is a part.
            v = values.clone()
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    @staticmethod
    def backward(
        ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Rotate the gradients back; the gradient of a repeated head is the sum over its copies."""
        (num_q, num_k), (cos, sin) = ctx.num_heads, ctx.rotation
        num_rows, _, width, head_dim = grad_q.shape
        if grad_q.is_cuda:
            both = triton_module("heads").rotate_heads_gradient(
                grad_q, grad_k, grad_v, cos, sin, num_k
            )
            if ctx.together:
                return both, None, None, None, None
            return *both.split([num_q + num_k, num_k], dim=2), None, None, None
        num_values = num_k if ctx.together else 0
        grad = grad_q.new_empty((num_rows, width, num_q + num_k + num_values, head_dim))
        rotated, values = grad.split([num_q + num_k, num_values], dim=2)
        if not num_values:
            values = grad_q.new_empty((num_rows, width, num_k, head_dim))
        q, k = rotated.split([num_q, num_k], dim=2)
        q.copy_(grad_q.transpose(1, 2))
        for grad_copies, out in ((grad_k, k), (grad_v, values)):
            torch.sum(grad_copies.transpose(1, 2).unflatten(2, (num_k, -1)), dim=3, out=out)
        swapped = _halves_swapped(rotated)
        rotated.mul_(cos).addcmul_(swapped, sin, value=-1)
        return grad, None if num_values else values, None, None, None


def _halves_swapped(x: Tensor) -> Tensor:
    """A copy of ``x`` with the two halves of its last dimension swapped."""
    return x.roll(x.shape[-1] // 2, dims=-1)


def _repeated(x: Tensor, times: int) -> Tensor:
    """[R, W, heads · times, D] with each head repeated ``times`` times, its copies side by side."""
    return x.unsqueeze(3).expand(-1, -1, -1, times, -1).flatten(2, 3)
