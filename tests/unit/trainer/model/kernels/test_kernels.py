"""The GPU's kernels against autograd in float64; on a CPU Triton's interpreter runs them, where Triton is installed."""

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton comes with PyTorch's builds for a GPU"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEAD_DIM = 10  # no power of two


@pytest.fixture(scope="module")
def interpreted() -> None:
    if DEVICE == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="module")
def kernels(interpreted: None) -> Any:
    return import_module("trainer.model.kernels.elementwise")


@pytest.fixture(scope="module")
def of_heads(interpreted: None) -> Any:
    return import_module("trainer.model.kernels.heads")


@pytest.fixture(scope="module")
def softmax(interpreted: None) -> Any:
    return import_module("trainer.model.kernels.softmax")


def is_rounded(found: Tensor, wanted: Tensor) -> bool:
    """Whether numbers are the wanted ones, rounded only once; intermediate numbers are float32."""
    # Not half a step of bfloat16, 1/256, but a whole one: Triton's interpreter cuts digits off.
    step = 1 / 128 if found.dtype is torch.bfloat16 else 1e-6
    wanted = wanted.detach()
    return bool(((found.double() - wanted).abs() <= step * wanted.abs() + 1e-5).all())


@pytest.mark.slow
def test_all_compile_for_an_a100_and_an_h200() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.unit.trainer.model.kernels.compiled"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [40, 1027])
def test_norm_and_its_gradient(width: int, dtype: torch.dtype, kernels: Any) -> None:
    torch.manual_seed(width)
    x = (3 * torch.randn(3, width, device=DEVICE)).to(dtype)
    weight = torch.randn(width, device=DEVICE).to(dtype)
    # Outputs and their gradients have columns that others fill.
    out = torch.zeros(3, width + 5, device=DEVICE, dtype=dtype)
    grad = torch.randn(3, width + 5, device=DEVICE).to(dtype)
    of_input = torch.randn(3, width, device=DEVICE).to(dtype)
    exact = x.double().requires_grad_()
    wanted = weight.double() * exact / (exact.square().mean(dim=1, keepdim=True) + 0.5).sqrt()
    (of_x,) = torch.autograd.grad(wanted, exact, grad[:, :width].double())
    scale = kernels.norm(x, weight, 0.5, out)
    assert is_rounded(out[:, :width], wanted)
    assert not out[:, width:].any()
    for added in (None, of_input):
        found = kernels.norm_gradient(x, scale, weight, grad, added)
        assert found.dtype is dtype
        assert is_rounded(found, of_x if added is None else of_x + added.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [40, 1027])
def test_swiglu_and_its_gradient(width: int, dtype: torch.dtype, kernels: Any) -> None:
    torch.manual_seed(width)
    gate_up = (2 * torch.randn(3, 2 * width, device=DEVICE)).to(dtype)
    # Outputs and their gradients have columns that others fill.
    out = torch.zeros(3, width + 5, device=DEVICE, dtype=dtype)
    grad = torch.randn(3, width + 5, device=DEVICE).to(dtype)
    exact = gate_up.double().requires_grad_()
    gate, up = exact.chunk(2, dim=1)
    wanted = silu(gate) * up
    (of_input,) = torch.autograd.grad(wanted, exact, grad[:, :width].double())
    kernels.swiglu(gate_up, out)
    assert is_rounded(out[:, :width], wanted)
    assert not out[:, width:].any()
    assert is_rounded(kernels.swiglu_gradient(gate_up, grad), of_input)


def turned(both: Tensor, cos: Tensor, sin: Tensor, num_q: int, num_k: int) -> list[Tensor]:
    """Queries, keys and values in float64, each [R, heads of queries, W, D]."""
    q, k, v = both.split([num_q, num_k, num_k], dim=2)

    def rotated(x: Tensor) -> Tensor:
        low, high = x.chunk(2, dim=-1)
        c, s = cos.chunk(2, dim=-1)[0], sin.chunk(2, dim=-1)[1]
        return torch.cat([low * c - high * s, high * c + low * s], dim=-1)

    repeated = (x.repeat_interleave(num_q // num_k, dim=2) for x in (rotated(k), v))
    return [x.transpose(1, 2) for x in (rotated(q), *repeated)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_k", [1, 2, 6])
@pytest.mark.parametrize("apart", [False, True], ids=["together", "values apart"])
def test_heads_are_rotated_and_repeated_and_turned_back(
    apart: bool, num_k: int, dtype: torch.dtype, of_heads: Any
) -> None:
    torch.manual_seed(num_k)
    num_rows, width, num_q = 2, 3, 6
    angle = torch.rand(num_rows, width, 1, HEAD_DIM // 2, device=DEVICE)
    cos = torch.cat([angle.cos()] * 2, dim=-1).to(dtype)
    sin = torch.cat([-angle.sin(), angle.sin()], dim=-1).to(dtype)
    both = torch.randn(num_rows, width, num_q + 2 * num_k, HEAD_DIM, device=DEVICE).to(dtype)
    heads, values = both.split([num_q + num_k, num_k], dim=2)
    if apart:
        heads = heads.clone()
    exact = both.double().requires_grad_()
    wanted = turned(exact, cos.double(), sin.double(), num_q, num_k)
    found = of_heads.rotate_heads(heads, values, cos, sin, num_q)
    for ours, theirs in zip(found, wanted, strict=True):
        assert is_rounded(ours, theirs)

    # In the layout of the outputs, and in the one that attention may give back.
    of_q, of_k = (torch.randn_like(x) for x in found[:2])
    of_v = torch.randn(num_rows, num_q, width, HEAD_DIM, device=DEVICE).to(dtype)
    grads = [of_q, of_k, of_v]
    (of_both,) = torch.autograd.grad(wanted, exact, [g.double() for g in grads])
    ours = of_heads.rotate_heads_gradient(*grads, cos, sin, num_k)
    assert ours.dtype is dtype
    assert is_rounded(ours, of_both)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocabulary", "block"), [(10, 16), (70, 16), (64, 64)])
def test_logprobs_entropies_and_their_gradient(
    vocabulary: int,
    block: int,
    dtype: torch.dtype,
    softmax: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(softmax, "_BLOCK", block)
    torch.manual_seed(vocabulary)
    logits = 5 * torch.randn(4, vocabulary, device=DEVICE)
    logits[1] += 300  # exponentials of which float32 does not have
    logits[2] -= torch.arange(vocabulary, device=DEVICE) * 40.0  # one token has all
    logits[3, 0] = -torch.inf  # as a small temperature makes it
    # Columns of other tensors, as they may come.
    temperature = torch.tensor([[1.0, 0.5, 1.0, 0.25]] * 2, device=DEVICE).T[:, 1]
    token_ids = torch.tensor([[0, vocabulary - 1, 3, 5]] * 2, device=DEVICE).T[:, 1]
    grad = torch.randn(4, 3, device=DEVICE)[:, 1]

    exact = logits.double().requires_grad_()
    every = (exact / temperature.double().unsqueeze(1)).log_softmax(dim=1)
    wanted = every.gather(1, token_ids.unsqueeze(1)).squeeze(1)
    (of_logits,) = torch.autograd.grad(wanted, exact, grad.double())
    logprobs, entropy, log_sum = softmax.logprobs_and_entropy(logits, temperature, token_ids)
    assert torch.allclose(logprobs.double(), wanted, rtol=1e-6, atol=5e-5)
    assert torch.allclose(
        entropy.double(), -(every.exp() * every).nan_to_num().sum(dim=1), atol=5e-6
    )
    found = softmax.logprobs_gradient(logits, temperature, token_ids, log_sum, grad, dtype)
    assert found.dtype is dtype
    assert torch.allclose(
        found.double(), of_logits, rtol=1e-2 if dtype is torch.bfloat16 else 1e-4, atol=1e-5
    )
