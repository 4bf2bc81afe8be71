"""Top-p without sorting keeps the tokens that vLLM's own function keeps, bit for bit."""

import inspect

import pytest
import torch
from torch import Tensor

sampler = pytest.importorskip("vllm.v1.sample.ops.topk_topp_sampler")
cpu_top_p = pytest.importorskip("inference_server.vllm.cpu.top_p")

VOCABULARY = 5_000


def rows(name: str) -> Tensor:
    """Eight rows of logits, [8, V]."""
    torch.manual_seed(0)
    noise = torch.randn(8, VOCABULARY)
    if name == "sure of a few":
        noise[:, 7:12] += 15
    elif name == "flat":
        noise *= 0.1
    elif name == "equal logits at the edge":
        noise = noise.round() * 4
    elif name == "all equal":
        noise = torch.zeros(8, VOCABULARY)
    elif name == "tokens of probability 0":
        noise[:, ::3] = -300.0
    elif name == "tokens that are ruled out":
        noise[:, 100:] = -float("inf")
    elif name == "mass that is top-p exactly":
        noise[:] = -float("inf")
        noise[:, 11:19] = torch.tensor([0.5, 0.25, 0.125, 0.025, 0.05, 0.03, 0.01, 0.01]).log()
    return noise


NAMES = [
    "plain",
    "sure of a few",
    "flat",
    "equal logits at the edge",
    "all equal",
    "tokens of probability 0",
    "tokens that are ruled out",
    "mass that is top-p exactly",
]
TOP_P = torch.tensor([0.95, 0.9, 1.0, 0.5, 0.75, 0.1, 0.99, 1e-6])


@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_vllms(name: str) -> None:
    own = inspect.unwrap(sampler.apply_top_k_top_p_pytorch)
    expected = own(rows(name), None, TOP_P.clone())
    sorted_rows = 0

    def counted(logits: Tensor, *arguments: object, **more: object) -> Tensor:
        nonlocal sorted_rows
        sorted_rows += len(logits)
        result: Tensor = own(logits, *arguments, **more)
        return result

    found = cpu_top_p.without_sorting(counted)(rows(name), None, TOP_P.clone())
    assert torch.equal(found, expected)
    if name == "sure of a few":
        assert sorted_rows == 0


def test_top_k_and_small_vocabularies_are_left_to_vllm() -> None:
    asked = []

    def original(logits: Tensor, k: Tensor | None, p: Tensor | None) -> Tensor:
        asked.append((k, p))
        return logits

    apply = cpu_top_p.without_sorting(original)
    small, large = torch.randn(2, 300), torch.randn(2, VOCABULARY)
    k, p = torch.tensor([3, 4]), torch.tensor([0.9, 0.9])
    for logits, top_k, top_p in ((small, None, p), (large, k, p), (large, k, None)):
        assert apply(logits, top_k, top_p) is logits
    assert len(asked) == 3
