"""The base model and the adapter on it."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from inference_server.wire.prompt_options import NotBlank
from inference_server.wire.settings.model import SettingsModel

ALL_LINEAR = "all-linear"
"""PEFT's word for every linear layer but the head."""


class PolicyConfig(SettingsModel):
    """The base model and the adapter on it."""

    base_model: NotBlank = "models/tiny-base"
    """Folder or Hub id of the base model; the server must serve the same one."""
    adapter: Path | None = None
    """Folder of the adapter to start from (for PPO, that of the SFT); null starts from a fresh one. So does `sft` if this
    is its output."""
    lora_rank: Annotated[int, Field(ge=1)] = 16
    """Rank of a fresh adapter; at most serve.max_lora_rank of the server."""
    lora_alpha: Annotated[int, Field(ge=1)] = 32
    """Alpha of a fresh adapter: its weights are scaled by alpha / rank."""
    target_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Modules that a fresh adapter adapts; `all-linear` alone stands for every linear layer but the head."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the frozen base; adapters are trained in float32. `auto` is the server's dtype in `train`. In
    commands without a server, it is the base's own on a GPU and float32 on a CPU. A run keeps the dtype that it
    began with."""
    quantization: Literal["nf4"] | None = None
    """`nf4` keeps the linear layers of the frozen base in 4 bits (QLoRA, by bitsandbytes) and computes in
    policy.dtype. Serve the model that `python -m trainer dequantize` writes, so that both sides have the same
    weights."""
    autocast: bool = False
    """Run PPO's forward and backward passes in bfloat16 autocast (in float16 if that is the dtype); the
    weights keep their dtype."""
    gradient_checkpointing: bool = False
    """Recompute each layer's activations in the backward pass instead of keeping them: less memory, more
    time."""

    shard_base: bool = False
    """For a base that does not fit one GPU: with several trainer ranks, each keeps only its part of every layer of the
    frozen base (FSDP2), and gathers a layer's weights while it computes with them. Embeddings and head stay whole."""

    @model_validator(mode="after")
    def _shards_only_full_precision(self) -> Self:
        if self.shard_base and self.quantization is not None:
            raise ValueError(
                f"policy.shard_base divides a base in full precision, not one in {self.quantization}: leave "
                "policy.quantization or policy.shard_base out"
            )
        return self

    @field_validator("target_modules")
    @classmethod
    def _all_linear_stands_alone(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if not targets or (ALL_LINEAR in targets and len(targets) > 1):
            raise ValueError(f"give at least one module, and {ALL_LINEAR} alone")
        if several := next((name for name in targets if set(name) & set(", ")), None):
            raise ValueError(f"{several!r} is not the name of a module")
        return targets


def is_all_linear(target_modules: tuple[str, ...]) -> bool:
    """Whether ``policy.target_modules`` stands for every linear layer."""
    return target_modules == (ALL_LINEAR,)
