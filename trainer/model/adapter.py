"""LoRA adapters: their tensors, how training starts from one, and a faster forward pass."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from safetensors.torch import load_file, save
from torch import Tensor

from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError

AdapterState = dict[str, Tensor]
"""An adapter's tensors under PEFT's file names, e.g. ``base_model.model.….lora_A.weight``."""


def read_adapter(folder: Path) -> AdapterState:
    """The tensors of an adapter's folder."""
    state: AdapterState = load_file(folder / ADAPTER_WEIGHTS_FILE)
    return state


def serialized(state: AdapterState) -> bytes:
    """The content of an adapter's weights file."""
    data: bytes = save(state, metadata={"format": "pt"})
    return data


def attach_adapter(base: Any, config: PolicyConfig, name: str) -> Any:
    """Put the starting adapter, or a fresh one, on the base; returns PEFT's model.

    Raises:
        UsageError: The starting adapter has dropout, or is not LoRA.
    """
    if config.adapter is None:
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules=list(config.target_modules),
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(base, lora, adapter_name=name)
    settings = json.loads((config.adapter / ADAPTER_CONFIG_FILE).read_text())
    if settings.get("peft_type") != "LORA":
        raise UsageError(f"policy.adapter {config.adapter}: not a LoRA adapter")
    model = PeftModel.from_pretrained(base, config.adapter, adapter_name=name, is_trainable=True)
    if dropout := model.peft_config[name].lora_dropout:
        raise UsageError(
            f"policy.adapter {config.adapter}: lora_dropout is {dropout}; "
            "PPO needs 0, or the trainer's logprobs differ from the server's"
        )
    return model


def fuse_additions(layer: LoraLayer) -> None:
    """Let a layer add its adapters' outputs as part of their second matrix product."""
    for name in layer.lora_A:
        if not layer.lora_bias[name]:
            layer.lora_variant.setdefault(name, _FusedLora())


class _FusedLora(LoraVariant):  # type: ignore[misc]
    """LoRA that adds its output within its second product; PEFT takes two more passes for it."""

    @staticmethod
    def forward(
        module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        low = module.lora_A[active_adapter](x)
        up = module.lora_B[active_adapter].weight
        # In the base's dtype, in which the server computes.
        fused = torch.addmm(
            result.flatten(0, -2),
            low.flatten(0, -2).to(result.dtype),
            up.T.to(result.dtype),
            alpha=module.scaling[active_adapter],
        )
        return fused.view_as(result)
