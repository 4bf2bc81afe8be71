"""A part of the benchmark: a shape, a token budget, checkpointing on or off, and an attention kernel."""

from dataclasses import dataclass

from torch.nn.attention import SDPBackend
from transformers import PretrainedConfig, Qwen2Config

from benchmarks.model_shapes import PRESETS

TINY = Qwen2Config(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
SHAPES: dict[str, tuple[str, PretrainedConfig]] = {
    "1.5b": ("gsm8k_a100", PRESETS["gsm8k_a100"]),
    "8b": ("gsm8k_a100_8b", PRESETS["gsm8k_a100_8b"]),
    "tiny": ("demo", TINY),
}
"""Each preset with the shape of its base; ``tiny`` is for trying out this program."""
ATTENTIONS: dict[str, SDPBackend | None] = {
    "default": None,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
"""Kernels of scaled_dot_product_attention that take a mask; FlashAttention takes none. The default is PyTorch's
choice."""


@dataclass(frozen=True, kw_only=True)
class Part:
    shape: str
    budget: int
    checkpointing: bool
    attention: str

    @property
    def name(self) -> str:
        kept = "checkpointing" if self.checkpointing else "all kept"
        return f"{self.shape}, {self.budget} tokens, {kept}, {self.attention}"
