"""How vLLM 0.32 is run on a GPU that a trainer shares: its batches, its CUDA graphs, and its memory.

The server starts with these values, and the trainer's doctor plans with them and shows them. Sizes are in bytes. Loads
neither torch nor vllm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from inference_server.wire.settings.serve import ServeConfig

MAX_NUM_SEQS = 512
"""Sequences that run at a time if ``serve.max_num_seqs`` is null: enough for a step of 64 questions and 8 arms,
which vLLM's default of 256 on an A100 would generate in two waves."""
MAX_BATCHED_TOKENS = 8192
"""Most tokens in a forward pass; vLLM's default of 2,048 on an A100 takes four times as many passes over a step's
prompts."""

ENVIRONMENT: Mapping[str, str] = {
    # FlashInfer's sampler is compiled when a request first needs it, and raises if there is no nvcc.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}

KV_CACHE_FLAG = "--kv-cache-memory-bytes"

_GIB = 2**30
_FLOAT32, _HALF = 4, 2
# Estimates: only their sum was measured, on an H200.
_CUDA_CONTEXT = 0.6 * _GIB
_CUDA_GRAPHS = 1.0 * _GIB


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The sizes of a model on which the server's memory depends."""

    num_parameters: int
    slot_parameters_per_rank: int
    """Parameters of an adapter of rank 1 on all linear layers, for which vLLM allocates slots."""
    hidden_size: int
    intermediate_size: int
    vocab_size: int

    @classmethod
    def of(cls, model: Any, linear: Mapping[str, Any]) -> Self:
        """Counted on the model itself, which needs no weights.

        Args:
            model: A model of Transformers whose configuration names ``intermediate_size``.
            linear: See `linear_modules`.
        """
        # LFM2's layers have another width than its configuration names.
        widths = [
            m.out_features for name, m in linear.items() if name.endswith((".up_proj", ".w1"))
        ]
        return cls(
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            slot_parameters_per_rank=sum(m.in_features + m.out_features for m in linear.values()),
            hidden_size=model.config.hidden_size,
            intermediate_size=widths[0] if widths else model.config.intermediate_size,
            vocab_size=model.config.vocab_size,
        )


def linear_modules(model: Any, kind: type) -> dict[str, Any]:
    """The linear modules of a model's decoder layers by their names; adapters are made for no others.

    Args:
        model: A model of Transformers.
        kind: Their class, such as ``torch.nn.Linear``, which is not loaded here.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kind) and ".layers." in name
    }


START_SHARE = 0.95
"""How much of its share of the card must be free when a server starts: it may restart beside a trainer that has
grown into some of the memory planned for graphs and the context."""


def capture_sizes(max_num_seqs: int) -> list[int]:
    """Numbers of sequences that CUDA graphs are captured for, up to ``max_num_seqs``.

    A batch is padded to the next size: it at most doubles below 64, and grows by at most half above. vLLM captures 51
    sizes up to 512, which takes most of its start; a step of rollouts uses each size once, from the largest down.
    """
    sizes = [1, 2, 4, 8, 16, 32, 48, 64, 96, *range(128, max_num_seqs + 1, 64), max_num_seqs]
    return sorted({size for size in sizes if size <= max_num_seqs})


def flags(serve: ServeConfig) -> dict[str, str]:
    """Flags of ``vllm serve`` with which a step's rollouts run in one wave."""
    return {
        "--max-num-seqs": str(serve.max_num_seqs or MAX_NUM_SEQS),
        "--max-num-batched-tokens": str(MAX_BATCHED_TOKENS),
    }


def memory_parts(
    model: ServedModel,
    *,
    max_lora_rank: int,
    max_loaded_versions: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
) -> dict[str, float]:
    """The parts of the server's memory by name, in 16 bits and without the key-value cache."""
    slot = max_lora_rank * (model.slot_parameters_per_rank + model.hidden_size + model.vocab_size)
    return {
        "weights": model.num_parameters * _HALF,
        "LoRA slots": max_loaded_versions * slot * _HALF,
        "a batch's activations": batch_bytes(
            model,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            bytes_per_number=_HALF,
        ),
        "CUDA graphs": _CUDA_GRAPHS,
        "CUDA context": _CUDA_CONTEXT,
    }


def batch_bytes(
    model: ServedModel,
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    bytes_per_number: int,
) -> int:
    """Memory that a forward pass works in: the widest layer's activations, float32 logits and the sampler's two copies of them."""
    widest = 2 * model.hidden_size + 3 * model.intermediate_size
    activations = max_num_batched_tokens * widest * bytes_per_number
    return activations + 3 * max_num_seqs * model.vocab_size * _FLOAT32


def refusal(dtype: str) -> str | None:
    """Why a dtype cannot be served on a GPU; None if it can."""
    if dtype not in ("float32", "float"):
        return None
    return (
        f"--dtype {dtype}: vLLM's LoRA kernels on a GPU take float16 and bfloat16 only; leave it out, or give "
        "bfloat16 (a float32 model is then served in it)"
    )
