"""The base model and the adapter on it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from trainer.config.base import Section


class PolicyConfig(Section):
    """The base model and the adapter on it."""

    base_model: str = "models/tiny-base"
    """Folder or Hub id of the base model; the server must serve the same one."""
    adapter: Path | None = None
    """Folder of the adapter to start from (the SFT adapter); null starts from a fresh one."""
    lora_rank: Annotated[int, Field(ge=1)] = 16
    """Rank of a fresh adapter; at most the server's serve.max_lora_rank."""
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
    """Modules that a fresh adapter adapts."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the frozen base; adapters are trained in float32."""
    quantization: Literal["nf4"] | None = None
    """`nf4` keeps the linear layers of the frozen base in 4 bits (QLoRA, by bitsandbytes) and computes in
    dtype. Serve the model that `python -m trainer dequantize` writes: then both sides have the same
    weights."""
    autocast: bool = False
    """Run PPO's forward and backward passes in bfloat16 autocast; the weights keep their dtype."""
    gradient_checkpointing: bool = False
    """Recompute each layer's activations in the backward pass instead of keeping them: less memory, more
    time."""
