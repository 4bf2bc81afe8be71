"""vLLM's rotary embedding on a CPU, with heads as a dimension of their own and side by side."""

import pytest
import torch

base = pytest.importorskip("vllm.model_executor.layers.rotary_embedding.base")
platforms = pytest.importorskip("vllm.platforms")
cpu_rotary = pytest.importorskip("inference_server.vllm.cpu.rotary")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not platforms.current_platform.is_cpu(), reason="vLLM's build for a CPU"),
]
NUM_TOKENS, NUM_HEADS, HEAD_SIZE = 6, 4, 16


def rotary() -> object:
    """A layer without vLLM's configuration around it."""
    layer = base.RotaryEmbeddingBase.__new__(base.RotaryEmbedding)
    torch.nn.Module.__init__(layer)
    layer.head_size, layer.is_neox_style = HEAD_SIZE, True
    angles = torch.arange(64.0).outer(100.0 ** -(torch.arange(0, HEAD_SIZE, 2) / HEAD_SIZE))
    layer.cos_sin_cache = torch.cat([angles.cos(), angles.sin()], dim=-1)
    layer._match_cos_sin_cache_dtype = lambda query: layer.cos_sin_cache
    return layer


def turned(x: torch.Tensor) -> torch.Tensor:
    """By hand: [T, heads, size], each pair of halves turned by its position's angle."""
    angles = torch.arange(float(NUM_TOKENS)).outer(
        100.0 ** -(torch.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
    )
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def test_heads_are_turned_however_they_lie() -> None:
    torch.manual_seed(0)
    query, key = (torch.randn(NUM_TOKENS, n, HEAD_SIZE) for n in (NUM_HEADS, 2))
    original = getattr(base.RotaryEmbedding.forward_cpu, "__wrapped__", None)
    apply = cpu_rotary.with_flat_heads(original or base.RotaryEmbedding.forward_cpu)
    positions = torch.arange(NUM_TOKENS)

    apart = apply(rotary(), positions, query.clone(), key.clone())
    torch.testing.assert_close(apart[0], turned(query))
    torch.testing.assert_close(apart[1], turned(key))
    flat = apply(rotary(), positions, query.flatten(1).clone(), key.flatten(1).clone())
    torch.testing.assert_close(flat[0].view_as(query), turned(query))
    torch.testing.assert_close(flat[1].view_as(key), turned(key))
    alone, nothing = apply(rotary(), positions, query.clone(), None)
    torch.testing.assert_close(alone, turned(query))
    assert nothing is None
