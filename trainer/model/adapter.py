"""LoRA adapters: their tensors, how training starts from one, and a faster forward pass."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from inference_server.wire.adapters.adapter_config import module_and_side
from inference_server.wire.hardware.gpu import linear_modules
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from trainer.config.policy import ALL_LINEAR, is_all_linear
from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.model.adapter_files import require_adapter, require_tensors_as_configured
from trainer.model.base_files import one_line

AdapterState = dict[str, Tensor]
"""An adapter's tensors under PEFT's file names, e.g. ``base_model.model.….lora_A.weight``."""


def read_adapter(folder: Path) -> AdapterState:
    """The tensors of an adapter's folder.

    They are read from the bytes, because ``load_file`` leaves two objects per tensor behind on every call
    (safetensors 0.8, PyTorch 2.13).
    """
    state: AdapterState = load((folder / ADAPTER_WEIGHTS_FILE).read_bytes())
    return state


def serialized(state: AdapterState) -> bytes:
    """The content of an adapter's weights file."""
    data: bytes = save(state, metadata={"format": "pt"})
    return data


def write_adapter(folder: Path, state: AdapterState, settings: LoraConfig) -> None:
    """Write an adapter into an existing folder; the same adapter gives the same bytes each time."""
    (folder / ADAPTER_WEIGHTS_FILE).write_bytes(serialized(state))
    named: dict[str, Any] = {**settings.to_dict(), "inference_mode": True}
    # PEFT keeps module names in a set, which has no order.
    text = json.dumps(named, indent=2, sort_keys=True, default=sorted)
    (folder / ADAPTER_CONFIG_FILE).write_text(text)


def fresh_lora(config: PolicyConfig) -> LoraConfig:
    """The shape of a fresh adapter."""
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        # PEFT expands ``all-linear`` if it stands alone, but takes it for a module's name if it is in a list.
        target_modules=ALL_LINEAR
        if is_all_linear(config.target_modules)
        else list(config.target_modules),
        # PPO computes logprobs with this adapter as the server does, without dropout.
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )


def missing_targets(base: Any, target_modules: Sequence[str]) -> list[str]:
    """The ``policy.target_modules`` that match no linear module of the decoder layers, by whole name or by its end.

    Embeddings and the output layer are no targets: PEFT would store their base weights in every version.
    """
    if is_all_linear(tuple(target_modules)):
        return []
    names = linear_modules(base, nn.Linear)
    return [t for t in target_modules if not any(is_target(name, [t]) for name in names)]


def is_target(name: str, target_modules: Sequence[str]) -> bool:
    """Whether PEFT adapts a module, by its whole name or by the name's end."""
    return any(name == target or name.endswith(f".{target}") for target in target_modules)


def require_targets(base: Any, config: PolicyConfig) -> None:
    """Refuse modules that are no linear modules of the base's decoder layers.

    Raises:
        UsageError: A module is missing; the message names one, and the modules that the base has.
    """
    if missing := missing_targets(base, config.target_modules):
        there_are = {name.rpartition(".")[2] for name in linear_modules(base, nn.Linear)}
        raise UsageError(
            f"policy.target_modules: the decoder layers of {config.base_model} have no linear module "
            f"{missing[0]!r}; they have {', '.join(sorted(there_are))}, or take {ALL_LINEAR} alone"
        )


def readable_adapter(folder: Path) -> AdapterState:
    """The tensors of a starting adapter; adapters that PPO can train on no base are refused.

    Raises:
        UsageError: The adapter cannot be read, has dropout or a value that is not finite, or is not the kind of LoRA
            that the server serves.
    """
    where = f"policy.adapter {folder}"
    require_adapter(folder)
    tensors = _tensors(folder, where)
    require_tensors_as_configured(folder, {name: t.shape for name, t in tensors.items()})
    if (name_at_fault := first_not_finite(tensors)) is not None:
        raise UsageError(f"{where}: {name_at_fault} has a value that is not finite")
    return tensors


def attach_adapter(base: Any, config: PolicyConfig, name: str) -> Any:
    """Put the starting adapter, or a fresh one, on the base; returns PEFT's model.

    Raises:
        UsageError: The starting adapter cannot be read, has dropout, is not LoRA, or has other tensors
            than the base takes, or adapts more than linear modules of the decoder layers; or
            ``policy.target_modules`` names such modules, or what the base does not have.
    """
    if config.adapter is None:
        require_targets(base, config)
        return get_peft_model(base, fresh_lora(config), adapter_name=name)
    where = f"policy.adapter {config.adapter}"
    tensors = readable_adapter(config.adapter)
    try:
        with warnings.catch_warnings():
            # The warnings are about tensors that do not fit; such tensors are refused below.
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(
                base,
                config.adapter,
                adapter_name=name,
                is_trainable=True,
                ignore_mismatched_sizes=True,
            )
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UsageError(f"{where}: it does not fit the base model: {one_line(error)}") from error
    flaw = flaw_in_state(adapter_tensors(model, name), tensors)
    if flaw is not None:
        raise UsageError(
            f"{where}: {flaw}: it was not made for {config.base_model}, or its names have another prefix "
            "than PEFT's base_model.model."
        )
    layers = linear_modules(model.get_base_model(), LoraLayer)
    for tensor in tensors:
        module, _ = module_and_side(tensor) or (tensor, "")
        if module not in layers:
            raise UsageError(
                f"{where}: {module} is not a linear module of the decoder layers; adapters of the "
                "embeddings or of the output layer are not trained"
            )
    return model


def adapter_tensors(model: Any, name: str) -> AdapterState:
    """The adapter's own tensors in PEFT's model, not copies of them."""
    # By default PEFT asks the Hub whether the base's vocabulary has been changed.
    tensors: AdapterState = get_peft_model_state_dict(
        model, adapter_name=name, save_embedding_layers=False
    )
    return tensors


def flaw_in_state(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """The first tensor that is missing, unexpected or of another shape; None if all fit.

    Args:
        wanted: Tensors with the names and shapes that the adapter has to have.
        found: The tensors that were read.
    """
    if wrong := sorted(wanted.keys() ^ found.keys()):
        word = "missing" if wrong[0] in wanted else "unexpected"
        return f"{word} tensor {wrong[0]} ({len(wrong)} in all)"
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            return f"{name} has shape {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
    return None


def first_not_finite(state: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that has NaN or infinity in it; None if there is none."""
    return next((n for n, tensor in state.items() if not bool(torch.isfinite(tensor).all())), None)


def _tensors(folder: Path, where: str) -> AdapterState:
    try:
        return read_adapter(folder)
    except OSError as error:
        raise UsageError(f"{where}: {ADAPTER_WEIGHTS_FILE}: {error.strerror}") from None
    except SafetensorError as error:
        raise UsageError(f"{where}: {ADAPTER_WEIGHTS_FILE}: {one_line(error)}") from None


def fuse_additions(layer: LoraLayer) -> None:
    """Let a layer add its adapters' outputs as part of their second matrix product."""
    for name in layer.lora_A:
        if not layer.lora_bias[name]:
            layer.lora_variant.setdefault(name, _FusedLora())


class _FusedLora(LoraVariant):  # type: ignore[misc]
    """LoRA that adds its output as part of its second product; PEFT takes two more passes for the addition."""

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
