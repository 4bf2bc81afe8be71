"""RMSNorm and SwiGLU with their gradients; `trainer.model.decoder` has the same for a CPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024
"""How many columns one program of `swiglu` computes."""


def norm(x: Tensor, weight: Tensor, epsilon: float, out: Tensor) -> Tensor:
    """Write ``x``, divided by its root mean square and times the weights, into the first H columns of ``out``.

    Args:
        x: [T, H]
        weight: [H]
        epsilon: Added to the mean square.
        out: [T, H or more]

    Returns:
        [T] float32, one over the root mean square.
    """
    num_tokens, width = x.shape
    scale = x.new_empty(num_tokens, dtype=torch.float32)
    _norm_kernel[(num_tokens,)](
        *(x, weight, out, scale, width, x.stride(0), out.stride(0), epsilon), **_row(width)
    )
    return scale


def norm_gradient(
    x: Tensor, scale: Tensor, weight: Tensor, grad: Tensor, of_input: Tensor | None
) -> Tensor:
    """[T, H] the gradient of `norm`'s input.

    Args:
        x: [T, H]
        scale: [T] what `norm` returned.
        weight: [H]
        grad: [T, H or more] the gradient of its output, in the first columns.
        of_input: [T, H] another part of the input's gradient, which is added; None if there is none.
    """
    num_tokens, width = x.shape
    out = x.new_empty(x.shape)
    # The kernel needs a tensor here even if nothing is added.
    other = out if of_input is None else of_input
    _norm_gradient_kernel[(num_tokens,)](
        *(x, scale, weight, grad, other, out, width),
        *(x.stride(0), grad.stride(0), other.stride(0)),
        ADDS=of_input is not None,
        **_row(width),
    )
    return out


def _row(width: int) -> dict[str, int]:
    """Launch options for a kernel whose programs compute a whole row each."""
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16)}


def swiglu(gate_up: Tensor, out: Tensor) -> None:
    """Write ``silu(gate) · up`` into the first columns of ``out`` [T, I or more]; ``gate_up`` [T, 2·I] holds both."""
    num_tokens, width = len(gate_up), gate_up.shape[1] // 2
    grid = (num_tokens, triton.cdiv(width, _BLOCK))
    _swiglu_kernel[grid](gate_up, out, width, gate_up.stride(0), out.stride(0), BLOCK=_BLOCK)


def swiglu_gradient(gate_up: Tensor, grad: Tensor) -> Tensor:
    """[T, 2·I] the gradient of `swiglu`'s input, from its output's gradient [T, I or more]."""
    num_tokens, width = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(gate_up.shape)
    grid = (num_tokens, triton.cdiv(width, _BLOCK))
    _swiglu_gradient_kernel[grid](
        gate_up, grad, out, width, gate_up.stride(0), grad.stride(0), BLOCK=_BLOCK
    )
    return out


@triton.jit
def add(a, b):
    """The sum of two numbers, for reductions; Triton's interpreter has tl.sum only if enabled before the import."""
    return a + b


@triton.jit
def _norm_kernel(x, weight, out, scale, width, stride, out_stride, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    inverse = 1 / tl.sqrt(tl.reduce(value * value, 0, add) / width + epsilon)
    tl.store(scale + row, inverse)
    tl.store(out + row * out_stride + column, value * inverse * w, mask=inside)


@triton.jit
def _norm_gradient_kernel(
    x,
    scale,
    weight,
    grad,
    other,
    out,
    width,
    stride,
    grad_stride,
    other_stride,
    ADDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    inverse = tl.load(scale + row)
    unit = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32) * inverse
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(grad + row * grad_stride + column, mask=inside, other=0.0).to(tl.float32) * w
    found = (g - unit * (tl.reduce(g * unit, 0, add) / width)) * inverse
    if ADDS:
        found += tl.load(other + row * other_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, found, mask=inside)


@triton.jit
def _swiglu_kernel(gate_up, out, width, stride, out_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * stride + column, mask=inside).to(tl.float32)
    up = tl.load(gate_up + row * stride + width + column, mask=inside).to(tl.float32)
    tl.store(out + row * out_stride + column, gate / (1 + tl.exp(-gate)) * up, mask=inside)


@triton.jit
def _swiglu_gradient_kernel(gate_up, grad, out, width, stride, grad_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * stride + column, mask=inside).to(tl.float32)
    up = tl.load(gate_up + row * stride + width + column, mask=inside).to(tl.float32)
    of_out = tl.load(grad + row * grad_stride + column, mask=inside).to(tl.float32)
    sigmoid = 1 / (1 + tl.exp(-gate))
    start = out + row * 2 * width + column
    of_gate = of_out * up * sigmoid * (1 + gate * (1 - sigmoid))
    tl.store(start, of_gate, mask=inside)
    tl.store(start + width, of_out * gate * sigmoid, mask=inside)
