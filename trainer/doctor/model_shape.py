"""The sizes of a base model that decide how much memory it takes.

They are counted on the model itself, built without weights.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from inference_server.wire.hardware.gpu import ServedModel
from trainer.config.policy import is_all_linear


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes and parameter counts of a base model."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    attention_size: int
    """Number of query heads × their size; grouped keys are repeated to the same size."""
    kv_size: int
    """Number of key-value heads × their size: what the cache holds of one token's keys in one layer."""
    vocab_size: int
    max_position_tokens: int
    """The longest prompt and completion together that the model takes."""
    num_parameters: int
    num_linear_parameters: int
    """Those in the layers' matrices, which QLoRA keeps in four bits."""
    largest_matrix: int
    """Parameters of the largest of these matrices."""
    adapter_parameters_per_rank: int
    """Parameters of an adapter of rank 1 on the configured modules."""
    slot_parameters_per_rank: int
    """Parameters of an adapter of rank 1 on all modules for which vLLM allocates slots."""

    @property
    def served(self) -> ServedModel:
        """What of it decides the server's memory."""
        return ServedModel(
            num_parameters=self.num_parameters,
            slot_parameters_per_rank=self.slot_parameters_per_rank,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            vocab_size=self.vocab_size,
        )


def read_shape(base_model: str, target_modules: tuple[str, ...]) -> ModelShape:
    """Build a model without its weights; only its configuration is read.

    Args:
        base_model: A folder, or an id of the Hub.
        target_modules: Names of the modules that get adapters.

    Raises:
        OSError: The configuration was not found.
        ValueError: Its architecture is unknown, or names its sizes and layers in a way of its own.
    """
    config = AutoConfig.from_pretrained(base_model)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    in_layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name
    }
    if not in_layers:
        raise ValueError(f"{config.model_type}: no linear modules in a list called layers")
    sizes = ("num_attention_heads", "intermediate_size", "num_key_value_heads")
    if unnamed := [size for size in sizes if getattr(config, size, None) is None]:
        raise ValueError(f"{config.model_type}: its configuration has no {unnamed[0]}")
    takes_all = is_all_linear(target_modules)
    targets = [
        m for name, m in in_layers.items() if takes_all or name.rpartition(".")[2] in target_modules
    ]
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        attention_size=heads * head_size,
        kv_size=config.num_key_value_heads * head_size,
        vocab_size=config.vocab_size,
        max_position_tokens=config.max_position_embeddings,
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_linear_parameters=sum(module.weight.numel() for module in in_layers.values()),
        largest_matrix=max(module.weight.numel() for module in in_layers.values()),
        adapter_parameters_per_rank=sum(m.in_features + m.out_features for m in targets),
        slot_parameters_per_rank=sum(m.in_features + m.out_features for m in in_layers.values()),
    )
