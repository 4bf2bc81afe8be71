"""A base model with an adapter added to its weights, computed in float32."""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import nn
from transformers import GenerationConfig

from inference_server.wire.base_files import base_folder
from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.model.adapter import attach_adapter
from trainer.model.base_model import load_base
from trainer.model.dtype import own_dtype

_GENERATION_FILE = "generation_config.json"
_ADAPTER = "exported"


def save_merged(policy: PolicyConfig, adapter: Path, folder: Path, dtype: str | None) -> str:
    """Write the merged model, with its configurations, into an existing folder.

    Args:
        policy: The run's; a 4-bit base is dequantized.
        adapter: Folder of the adapter to add.
        folder: The folder to write into.
        dtype: Dtype of the weights that are written; None takes the base's own.

    Returns:
        The dtype, such as ``bfloat16``.

    Raises:
        UsageError: Base or adapter cannot be read, or the dtype cannot hold the sum.
    """
    model = merged_model(policy, adapter, dtype)
    own = (base_folder(policy.base_model) or Path()) / _GENERATION_FILE
    if own.is_file():
        # Transformers refuses to write some generation configurations that it reads, so the file is copied instead.
        model.generation_config = GenerationConfig()
    model.save_pretrained(folder)
    if own.is_file():
        shutil.copyfile(own, folder / _GENERATION_FILE)
    return str(model.dtype).removeprefix("torch.")


@torch.no_grad()
def merged_model(policy: PolicyConfig, adapter: Path, dtype: str | None) -> Any:
    """The merged model on the CPU; see `save_merged`."""
    if policy.quantization is None:
        policy = policy.model_copy(update={"dtype": own_dtype(policy.base_model)})
    base = load_base(policy, torch.device("cpu"))
    if policy.quantization is not None:
        base = base.dequantize()
    to = base.dtype if dtype is None else getattr(torch, dtype)
    model = attach_adapter(base, policy.model_copy(update={"adapter": adapter}), _ADAPTER)
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            _merge(layer, name, to)
    return model.unload().to(to)


def _merge(layer: LoraLayer, name: str, dtype: torch.dtype) -> None:
    """Add an adapter's product to the weight of its layer, and round once."""
    linear = layer.get_base_layer()
    # PEFT holds an adapter's weights in float32.
    merged = (linear.weight.float() + layer.get_delta_weight(_ADAPTER)).to(dtype)
    if not bool(torch.isfinite(merged).all()):
        raise UsageError(f"dtype: {name}: a merged weight is too large for {dtype}; choose another")
    linear.weight = nn.Parameter(merged, requires_grad=False)
