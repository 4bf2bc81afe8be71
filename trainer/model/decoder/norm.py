"""RMSNorm (Zhang and Sennrich 2019), also beside a residual connection."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from trainer.model.kernels.triton_modules import triton_module


class RMSNorm:
    """Division by the root mean square over the last dimension, times a frozen weight."""

    def __init__(self, weight: Tensor, epsilon: float):
        """Keep what a pass needs.

        Args:
            weight: [H], or [K, H] for K heads with weights of their own.
            epsilon: Added to the mean square.
        """
        self.weight, self.epsilon = weight.detach(), epsilon
        # On a CPU, everything is computed from the length of x, which is √H times its root mean square.
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.scaled_weight = self.weight.to(wide) * math.sqrt(weight.shape[-1])
        self.added = torch.full_like(
            self.scaled_weight[..., :1], epsilon * weight.shape[-1]
        ).sqrt_()

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise [..., H]."""
        if x.is_cuda and self.weight.dim() > 1:
            return rms_norm(x, self.weight.shape[-1:], None, self.epsilon) * self.weight
        out: Tensor = _RMSNorm.apply(x, self, 0)[0]  # type: ignore[no-untyped-call]
        return out

    def with_residual(self, hidden: Tensor, num_free: int) -> tuple[Tensor, Tensor]:
        """The norm's output, and its input for the residual connection, so that backward adds the two gradients.

        Args:
            hidden: [T, H]
            num_free: How many more columns the output has; `SharedInput` fills them.

        Returns:
            [T, H + num_free], of which the last ``num_free`` columns are not set, and [T, H].
        """
        both: tuple[Tensor, Tensor] = _RMSNorm.apply(hidden, self, num_free)  # type: ignore[no-untyped-call]
        return both


class _RMSNorm(torch.autograd.Function):
    """Computes in at least float32, and rounds only at the end."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: RMSNorm, num_free: int) -> tuple[Tensor, Tensor]:
        """Normalise [..., H]; see `RMSNorm.with_residual`."""
        ctx.norm = norm
        ctx.set_materialize_grads(False)
        width = x.shape[-1]
        out = x.new_empty((*x.shape[:-1], width + num_free))
        if x.is_cuda:
            ctx.save_for_backward(
                x, triton_module("elementwise").norm(x, norm.weight, norm.epsilon, out)
            )
            return out, x
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=norm.added.dtype)
        length = length.hypot(norm.added)
        ctx.save_for_backward(x, length)
        torch.mul(x / length, norm.scaled_weight, out=first_columns(out, width))
        return out, x

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_residual: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        """With u = x / length and g = grad · weight: (g - u · sum(g · u)) / length."""
        if grad is None:
            return grad_residual, None, None
        x, length = ctx.saved_tensors
        if x.is_cuda:
            grad_x = triton_module("elementwise").norm_gradient(
                x, length, ctx.norm.weight, grad, grad_residual
            )
            return grad_x, None, None
        unit, scaled = x / length, first_columns(grad, x.shape[-1]) * ctx.norm.scaled_weight
        shared = (scaled * unit).sum(dim=-1, keepdim=True)
        scaled.addcmul_(unit, shared, value=-1)
        found = torch.empty_like(x)
        if grad_residual is None:
            torch.div(scaled, length, out=found)
        else:
            torch.addcdiv(grad_residual, scaled, length, out=found)
        return found, None, None


def first_columns(x: Tensor, num_columns: int) -> Tensor:
    """[..., num_columns] the first columns of a tensor; the tensor itself if it has no others."""
    return x if x.shape[-1] == num_columns else x[..., :num_columns]
