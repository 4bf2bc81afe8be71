"""What a config.json says about layers and modalities, for models counted by hand."""

import math
from typing import Any

import pytest

from inference_server.wire.hardware.cpu import KV_CACHE_VARIABLE, cpu_kv_cache_bytes
from inference_server.wire.hardware.model_config import (
    AttentionLayers,
    SlidingLayers,
    carries_state,
    context_tokens,
    state_bytes_per_sequence,
    why_not_text_only,
)

QWEN3_5_2B: dict[str, Any] = {
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "hidden_size": 2048,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 6,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
LFM2: dict[str, Any] = {
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "hidden_size": 1024,
    "layer_types": ["conv", "full_attention", "conv"],
    "conv_L_cache": 3,
}
SMOLLM2: dict[str, Any] = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
}
TWO_LAYERS = SMOLLM2 | {"num_hidden_layers": 2}
GEMMA = TWO_LAYERS | {
    "layer_types": ["sliding_attention", "full_attention"],
}


@pytest.mark.parametrize(
    ("config", "attention", "carries", "state"),
    [
        # 16 matrices of 128 x 128 in float32, and three inputs of 3 x 2048 channels in 16 bits.
        (QWEN3_5_2B, 6, True, 18 * (16 * 128 * 128 * 4 + 3 * 6144 * 2)),
        (LFM2, 1, True, 2 * 1024 * 2 * 2),
        (GEMMA, 2, False, 0),
        (TWO_LAYERS, 2, False, 0),
        (TWO_LAYERS | {"layer_types": None}, 2, False, 0),
        (TWO_LAYERS | {"layer_types": ["mamba", {}]}, 0, True, 0),
    ],
)
def test_layers_keep_keys_and_values_or_a_state(
    config: dict[str, Any], attention: int, carries: bool, state: int
) -> None:
    layers = AttentionLayers.of(config)
    assert layers is not None
    assert layers.num_layers == attention
    assert carries_state(config) == carries
    assert state_bytes_per_sequence(config, bytes_per_number=2) == state


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SMOLLM2, 2 * 30 * 3 * 64 * 4),
        (SMOLLM2 | {"num_key_value_heads": None}, 2 * 30 * 9 * 64 * 4),
        (SMOLLM2 | {"head_dim": 128}, 2 * 30 * 3 * 128 * 4),
        ({"num_hidden_layers": 30}, None),
        (SMOLLM2 | {"num_hidden_layers": [1, 2]}, None),
        ({}, None),
    ],
)
def test_a_tokens_keys_and_values_by_the_models_configuration(
    config: dict[str, object], expected: int | None
) -> None:
    layers = AttentionLayers.of(config)
    assert (layers and layers.kv_bytes_per_token(bytes_per_number=4)) == expected


@pytest.mark.parametrize(
    ("workers", "kv_heads", "of_one"), [(1, 8, 8), (2, 8, 4), (4, 8, 2), (4, 2, 1), (2, 3, 1)]
)
def test_workers_that_divide_a_model_keep_the_keys_of_their_heads(
    workers: int, kv_heads: int, of_one: int
) -> None:
    layers = AttentionLayers.of(SMOLLM2 | {"num_key_value_heads": kv_heads})
    assert layers is not None
    found = layers.kv_bytes_per_token(bytes_per_number=4, tensor_parallel_size=workers)
    assert found == 2 * 30 * of_one * 64 * 4


def test_the_cache_has_room_for_the_states_of_all_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KV_CACHE_VARIABLE, raising=False)
    layers = AttentionLayers.of(LFM2)
    assert layers is not None
    per_token = layers.kv_bytes_per_token(bytes_per_number=4)
    assert per_token == 2 * 1 * 8 * 64 * 4
    state = state_bytes_per_sequence(LFM2, bytes_per_number=4)
    found = cpu_kv_cache_bytes(
        bytes_per_token=per_token,
        state_bytes=state,
        max_model_len=512,
        max_num_seqs=3,
        memory_bytes=2**40,
    )
    assert found == 3 * (576 * per_token + state)


def test_a_model_of_more_than_text_is_told_how_to_write_its_language_model() -> None:
    reason = why_not_text_only({"text_config": {}, "model_type": "some"}, "owner/some")
    assert reason is not None
    assert reason.startswith("a model of more than text (some)")
    assert "text-model owner/some --output DIR" in reason


@pytest.mark.parametrize("config", [{}, {"text_config": None}, LFM2])
def test_a_model_of_text_alone_has_no_reason(config: dict[str, Any]) -> None:
    assert why_not_text_only(config, "owner/some") is None


@pytest.mark.parametrize(
    ("config", "length", "cached"),
    [
        # A layer of two keeps the window of 512 and a pass of 1,024 tokens.
        ({**GEMMA, "sliding_window": 512}, 4096, (4096 + 511 + 1024) / 2),
        ({**GEMMA, "sliding_window": 512}, 1000, 1000),
        ({**GEMMA, "sliding_window": None}, 4096, 4096),
        ({**GEMMA, "sliding_window": 512, "use_sliding_window": False}, 4096, 4096),
        ({"num_hidden_layers": 2, "sliding_window": 512}, 4096, 511 + 1024),
        ({**LFM2, "sliding_window": 512}, 4096, 4096),
        ({}, 4096, 4096),
    ],
)
def test_a_layer_with_a_window_keeps_it_and_a_pass(
    config: dict[str, Any], length: int, cached: float
) -> None:
    layers = SlidingLayers.of(config)
    assert layers.cached_tokens(length, max_num_batched_tokens=1024) == math.ceil(cached)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 16384),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 65536),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2}}, 32768),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 16384),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 16384),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 8}, "model_type": "gemma3_text"},
            16384,
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8}}}, 16384),
        ({"max_position_embeddings": None}, 0),
    ],
)
def test_positions_that_are_scaled_reach_further(changes: dict[str, Any], expected: int) -> None:
    assert context_tokens({"max_position_embeddings": 16384, **changes}) == expected
