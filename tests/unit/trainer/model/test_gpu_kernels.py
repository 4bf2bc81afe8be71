"""What is compiled for a GPU, computed here without compiling: values, gradients, shapes, and how often it compiles."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from trainer.model import gpu_kernels
from trainer.model.gpu_kernels import (
    rotated_heads,
    rotated_heads_gradient,
    swiglu_gradient_of,
    swiglu_of,
)

FLOAT64: dict[str, Any] = {"dtype": torch.float64}
HEAD_DIM = 6


def angles(num_tokens: int) -> tuple[Tensor, Tensor]:
    """cos and sin [T, 1, D] as the kernels take them."""
    angle = torch.outer(torch.arange(num_tokens).double(), torch.tensor([1.0, 0.3, 0.1]).double())
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], dim=1).unsqueeze(1), torch.cat([-sin, sin], dim=1).unsqueeze(1)


@pytest.mark.parametrize("num_k", [1, 2, 6])
def test_heads_are_rotated_and_repeated_with_the_gradients_of_autograd(num_k: int) -> None:
    torch.manual_seed(num_k)
    num_tokens, num_q = 5, 6
    cos, sin = angles(num_tokens)
    both = torch.randn(num_tokens, num_q + 2 * num_k, HEAD_DIM, **FLOAT64, requires_grad=True)
    heads, values = both.split([num_q + num_k, num_k], dim=1)
    found = rotated_heads(heads, values, cos, sin, num_q)
    before, after = both.detach(), found[0].detach()

    # By hand: the pair (x[i], x[i + D/2]) is turned by the position's angle.
    position, head, i = 3, 1, 2
    low, high = float(before[position, head, i]), float(before[position, head, i + 3])
    angle = position * 0.1
    turned = low * math.cos(angle) - high * math.sin(angle)
    assert float(after[position, head, i]) == pytest.approx(turned)
    times = num_q // num_k
    for repeated, one in zip(found[1:], (heads[:, num_q:], values), strict=True):
        assert repeated.shape == (num_tokens, num_q, HEAD_DIM)
        assert torch.equal(repeated[:, ::times], repeated[:, times - 1 :: times])
        assert repeated[0, ::times].tolist() == one[0].tolist()  # at position 0 nothing turns

    grads = [torch.randn_like(x) for x in found]
    (expected,) = torch.autograd.grad(found, both, grads)
    ours = rotated_heads_gradient(grads[0], grads[1], grads[2], cos, sin, num_k)
    torch.testing.assert_close(ours, expected)


def test_swiglu_has_the_gradient_of_autograd() -> None:
    torch.manual_seed(0)
    gate_up = (3 * torch.randn(7, 10, **FLOAT64)).requires_grad_()
    out = swiglu_of(gate_up)
    gate, up = float(gate_up.detach()[2, 1]), float(gate_up.detach()[2, 6])
    assert float(out.detach()[2, 1]) == pytest.approx(gate / (1 + math.exp(-gate)) * up)
    grad = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, gate_up, grad)
    torch.testing.assert_close(swiglu_gradient_of(gate_up.detach(), grad), expected)


def inputs(num_tokens: int, device: str = "cpu") -> dict[str, tuple[Any, ...]]:
    """Of each kernel, in bfloat16."""
    made: dict[str, Any] = {"dtype": torch.bfloat16, "device": device}
    cos, sin = (torch.ones(num_tokens, 1, HEAD_DIM, **made) for _ in range(2))
    heads, values = torch.ones(num_tokens, 10, HEAD_DIM, **made).split([8, 2], dim=1)
    q = torch.ones(num_tokens, 6, HEAD_DIM, **made)
    return {
        "swiglu": (torch.ones(num_tokens, 16, **made),),
        "swiglu_gradient": (
            torch.ones(num_tokens, 16, **made),
            torch.ones(num_tokens, 8, **made),
        ),
        "rotate_heads": (heads, values, cos, sin, 6),
        "rotate_heads_gradient": (q, q, q, cos, sin, 2),
    }


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "swiglu": swiglu_of,
    "swiglu_gradient": swiglu_gradient_of,
    "rotate_heads": rotated_heads,
    "rotate_heads_gradient": rotated_heads_gradient,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_numbers_of_tokens_compile_nothing_again(name: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(FUNCTIONS[name], backend=counter, dynamic=True, fullgraph=True)
    for num_tokens in (7, 129, 2, 64, 1000):
        compiled(*inputs(num_tokens)[name])
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_data_it_has_the_same_shapes(name: str) -> None:
    found = getattr(gpu_kernels, name)(*inputs(5, "meta")[name])
    wanted = FUNCTIONS[name](*inputs(5)[name])
    for ours, real in zip(_list(found), _list(wanted), strict=True):
        assert (ours.shape, ours.dtype, ours.stride()) == (real.shape, real.dtype, real.stride())


def _list(found: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)
