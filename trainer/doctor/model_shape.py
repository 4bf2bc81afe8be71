"""The sizes of a base model that decide how much memory it takes.

They are counted on the model itself, built without weights.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from inference_server.wire.hardware.gpu import ServedModel, linear_modules
from inference_server.wire.hardware.model_config import (
    DELTA_NET,
    AttentionLayers,
    DeltaNet,
    SlidingLayers,
    context_tokens,
    layer_types,
    state_bytes_per_sequence,
    why_not_text_only,
)
from trainer.config.policy import is_all_linear
from trainer.errors import UsageError
from trainer.model.adapter import is_target, missing_targets
from trainer.model.attention import Attention, attention_of, needs_own_rows
from trainer.model.base_files import reading_base
from trainer.model.decoder.layer import KNOWN_LAYERS

_HEADS = (
    *("num_hidden_layers", "hidden_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)
"""The keys of a configuration that `AttentionLayers` is read from."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes and parameter counts of a base model."""

    num_layers: int
    attention_layers: AttentionLayers
    """The layers that keep keys and values; the others carry a state."""
    sliding_layers: SlidingLayers
    num_delta_layers: int
    """Number of layers whose state follows the gated delta rule."""
    delta_num_heads: int
    delta_value_size: int
    """Number of such a layer's heads × the size of their values."""
    delta_channels: int
    """Channels of the convolution before such a layer's queries, keys and values."""
    needs_own_rows: bool
    """See `trainer.model.attention.needs_own_rows`."""
    state_bytes: int
    """Size of one sequence's states in all layers."""
    is_fused: bool
    """Whether `trainer.model.decoder` computes its layers."""
    served: ServedModel
    """The sizes that decide the server's memory."""
    max_position_tokens: int
    """The longest prompt and completion together that the model takes."""
    num_linear_parameters: int
    """Parameters in the layers' matrices, which QLoRA keeps in four bits."""
    largest_matrix: int
    """Parameters of the largest of these matrices."""
    missing_modules: tuple[str, ...]
    """The configured modules that the model does not have."""
    adapter_parameters_per_rank: int
    """Parameters of an adapter of rank 1 on the configured modules."""


def read_shape(base_model: str, target_modules: tuple[str, ...]) -> ModelShape:
    """Build a model without its weights; only its configuration is read.

    Args:
        base_model: A folder, or an id of the Hub.
        target_modules: Names of the modules that get adapters.

    Raises:
        UsageError: The configuration was not found, or cannot be read.
        ValueError: Its architecture is unknown, takes more than text, or does not have the usual names for its sizes
            and layers.
    """
    with reading_base(base_model):
        config = AutoConfig.from_pretrained(base_model)
    written = config.to_dict()
    if (reason := why_not_text_only(written, base_model)) is not None:
        raise ValueError(reason)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    in_layers = linear_modules(model, nn.Linear)
    if not in_layers:
        raise ValueError(f"{config.model_type}: no linear modules in a list called layers")
    sizes = ("num_attention_heads", "intermediate_size", "num_key_value_heads")
    unnamed = [size for size in sizes if getattr(config, size, None) is None]
    # Some configurations have other names for these, and are written with those names only.
    named = {name: getattr(config, name, None) for name in _HEADS if written.get(name) is None}
    attention_layers = AttentionLayers.of(written | named)
    if unnamed or attention_layers is None:
        missing = unnamed[0] if unnamed else "heads that can be read"
        raise ValueError(f"{config.model_type}: its configuration has no {missing}")
    takes_all = is_all_linear(target_modules)
    targets = [m for name, m in in_layers.items() if takes_all or is_target(name, target_modules)]
    delta = DeltaNet.of(written)
    return ModelShape(
        num_layers=config.num_hidden_layers,
        attention_layers=attention_layers,
        sliding_layers=SlidingLayers.of(written),
        num_delta_layers=layer_types(written).count(DELTA_NET) if delta.channels else 0,
        delta_num_heads=delta.num_values,
        delta_value_size=delta.num_values * delta.value_size,
        delta_channels=delta.channels,
        needs_own_rows=needs_own_rows(model),
        state_bytes=state_bytes_per_sequence(written, bytes_per_number=2),
        is_fused=_is_fused(model, base_model),
        served=ServedModel.of(model, in_layers),
        max_position_tokens=context_tokens(written),
        num_linear_parameters=sum(module.weight.numel() for module in in_layers.values()),
        largest_matrix=max(module.weight.numel() for module in in_layers.values()),
        missing_modules=tuple(missing_targets(model, target_modules)),
        adapter_parameters_per_rank=sum(m.in_features + m.out_features for m in targets),
    )


def _is_fused(model: Any, base_model: str) -> bool:
    try:
        sees_all = attention_of(model, base_model) == Attention()
    except UsageError:
        return False
    return sees_all and all(isinstance(layer, KNOWN_LAYERS) for layer in model.model.layers)
