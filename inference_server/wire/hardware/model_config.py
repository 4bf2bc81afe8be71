"""What a model's config.json says about serving it: whether it takes only text, and what its layers keep.

A layer keeps the keys and values of each token, or one state for a sequence. Sizes are in bytes. Loads neither torch
nor vllm.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

DELTA_NET, CONVOLUTION = "linear_attention", "conv"
"""Transformers' names, in ``layer_types``, of layers with a state whose size is known here: the gated delta rule
(Qwen3.5, Qwen3-Next, OLMo Hybrid) and short convolutions (LFM2)."""
_SLIDING = "sliding_attention"
_ATTENTION = frozenset({"full_attention", _SLIDING, "chunked_attention"})
_FLOAT32 = 4
"""Bytes of a number in a state of linear attention, whatever the model's dtype."""


@dataclass(frozen=True, kw_only=True)
class DeltaNet:
    """Sizes of a layer with the gated delta rule; zeros where a model has none."""

    num_keys: int
    key_size: int
    num_values: int
    value_size: int
    taps: int
    """Tokens that the convolution before queries, keys and values reads."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Read from the content of a model's config.json."""
        return cls(
            num_keys=_number(config, "linear_num_key_heads"),
            key_size=_number(config, "linear_key_head_dim"),
            num_values=_number(config, "linear_num_value_heads"),
            value_size=_number(config, "linear_value_head_dim"),
            taps=_number(config, "linear_conv_kernel_dim"),
        )

    @property
    def channels(self) -> int:
        """Number of channels of the convolution."""
        return 2 * self.num_keys * self.key_size + self.num_values * self.value_size

    def state_bytes(self, bytes_per_number: int) -> int:
        """Size of a sequence's state: a matrix for each value head, and the convolution's last inputs."""
        matrices = self.num_values * self.key_size * self.value_size * _FLOAT32
        return matrices + self.channels * max(0, self.taps - 1) * bytes_per_number


def why_not_text_only(config: Mapping[str, Any], name: str) -> str | None:
    """Why a model of text and images cannot be a policy's base; None for a text-only model.

    Transformers loads only its language model, but vLLM loads the whole model, whose layers have other names: an
    adapter of the one does not fit the other.

    Args:
        config: The content of a model's config.json.
        name: The model's folder or Hub id.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("text_config"), Mapping):
        return None
    return (
        f"a model of more than text ({config.get('model_type')}); `python -m trainer text-model {name} --output DIR` "
        "writes its language model alone, where Transformers has a class for it: name DIR then"
    )


def layer_types(config: Mapping[str, Any]) -> list[str]:
    """The kind of each layer; empty if a configuration does not list them: then all are attention, or unknown."""
    kinds = config.get("layer_types")
    return list(map(str, kinds)) if isinstance(kinds, list) else []


def context_tokens(config: Mapping[str, Any]) -> int:
    """The longest prompt and completion together, as vLLM derives it; 0 if a configuration does not say.

    Linear and dynamic scaling let positions reach further than they were trained for. The number of a Gemma 3, and
    of a model with another kind of scaling, already includes its scaling.
    """
    positions = _number(config, "max_position_embeddings")
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, Mapping) or str(config.get("model_type")).startswith("gemma3"):
        return positions
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
    if kind in ("linear", "dynamic") and isinstance(factor, int | float):
        return int(positions * factor)
    return positions


def carries_state(config: Mapping[str, Any]) -> bool:
    """Whether some layer keeps a state of the earlier tokens instead of their keys and values."""
    return any(kind not in _ATTENTION for kind in layer_types(config))


@dataclass(frozen=True, kw_only=True)
class AttentionLayers:
    """The layers of a model that keep keys and values, and the heads of each."""

    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_size: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self | None:
        """Read from the content of a model's config.json; None where it does not say."""
        try:
            without = sum(kind not in _ATTENTION for kind in layer_types(config))
            num_heads = int(config["num_attention_heads"])
            return cls(
                num_layers=int(config["num_hidden_layers"]) - without,
                num_query_heads=num_heads,
                num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
                head_size=int(config.get("head_dim") or config["hidden_size"] // num_heads),
            )
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def query_size(self) -> int:
        """Width of a layer's queries; grouped keys are repeated to it."""
        return self.num_query_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Width of a layer's keys, and of its values."""
        return self.num_kv_heads * self.head_size

    def kv_bytes_per_token(self, *, bytes_per_number: int, tensor_parallel_size: int = 1) -> int:
        """Size of one token's keys and values in all layers.

        Args:
            bytes_per_number: Size of a number in the cache's dtype.
            tensor_parallel_size: Workers that divide the heads, each with at least one; the result is for one
                worker.
        """
        num_heads = max(1, self.num_kv_heads // tensor_parallel_size)
        return 2 * self.num_layers * num_heads * self.head_size * bytes_per_number


@dataclass(frozen=True, kw_only=True)
class SlidingLayers:
    """Layers whose cache drops the tokens before a window; all zeros if a model has none."""

    share: float
    """Their share of the layers that keep keys and values."""
    window_tokens: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Read from the content of a model's config.json."""
        kinds, window = layer_types(config), _number(config, "sliding_window")
        if not window or config.get("use_sliding_window") is False:
            return cls(share=0.0, window_tokens=0)
        kept = [kind for kind in kinds if kind in _ATTENTION]
        # If a configuration lists no kinds, as Mistral's, all layers have the window.
        share = kept.count(_SLIDING) / max(1, len(kept)) if kinds else 1.0
        return cls(share=share, window_tokens=window)

    def cached_tokens(self, length: int, *, max_num_batched_tokens: int) -> int:
        """Room that vLLM asks for before it starts, in tokens of all layers, for a sequence of ``length`` tokens.

        A layer with a window keeps the window's tokens and those of one pass.
        """
        kept = min(length, self.window_tokens - 1 + max_num_batched_tokens)
        return math.ceil((1 - self.share) * length + self.share * kept)


def state_bytes_per_sequence(config: Mapping[str, Any], *, bytes_per_number: int) -> int:
    """Size of one sequence's states in all layers; kinds that are not known here count as 0.

    Args:
        config: The content of a model's config.json.
        bytes_per_number: Size of a number in the dtype that the model computes in.
    """
    kinds = layer_types(config)
    layer_bytes = {
        DELTA_NET: DeltaNet.of(config).state_bytes(bytes_per_number),
        CONVOLUTION: _number(config, "hidden_size")
        * (_number(config, "conv_L_cache") - 1)
        * bytes_per_number,
    }
    return sum(max(0, layer_bytes.get(kind, 0)) for kind in kinds)


def _number(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) else 0
