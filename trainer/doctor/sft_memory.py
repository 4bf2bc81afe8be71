"""Computes how much memory SFT needs, part by part, and whether the card has it. Sizes are in bytes.

SFT runs before the server is started, so it has the card to itself.
"""

from collections.abc import Iterator, Sequence

from trainer.config.sections import DoctorConfig
from trainer.doctor.device import Card
from trainer.doctor.layer_memory import FLOAT32, layer_bytes
from trainer.doctor.memory_parts import (
    Part,
    Rows,
    activation_parts,
    planned_policy,
    process_part,
    weight_parts,
)
from trainer.doctor.model_shape import ModelShape
from trainer.doctor.results import GIB, CheckResult, note, ok, size_text

# TRL computes logits in tiles (trl.kernels.chunked_logprob): at most this many tokens by this many vocabulary entries.
_TILE_TOKENS = 4_096
_TILE_VOCABULARY = 32_768
_TILE_COPIES = 7.2
"""Copies of a tile that the backward pass makes without Triton, in addition to the buffer, by PyTorch's allocator."""
_PROCESS = 1.3 * GIB
"""Resident memory of an SFT of SmolLM2 less the parts counted here (benchmarks/README.md): TRL, datasets, and
what the C library's allocator keeps."""


def sft_parts(
    shape: ModelShape,
    config: DoctorConfig,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    on_gpu: bool,
) -> Iterator[Part]:
    """SFT's parts at its peak, in a forward and backward pass.

    Args:
        shape: The base model's.
        config: Its sections policy and sft.
        prompt_tokens: Length of the longest demonstration's prompt.
        completion_tokens: Length of the longest demonstration's solution.
        on_gpu: Whether it computes on a GPU.
    """
    sft, policy = config.sft, planned_policy(config.policy, on_gpu=on_gpu)
    longest = prompt_tokens + completion_tokens
    width = sft.packed_row_tokens if sft.packing else longest
    num_tokens = sft.examples_per_pass(width) * width
    num_scored = min(_TILE_TOKENS, num_tokens * completion_tokens // longest)
    yield from weight_parts(shape, policy)
    adapter = policy.lora_rank * shape.adapter_parameters_per_rank * FLOAT32
    # The adapter, its gradient and AdamW's two moments.
    yield Part(
        name="adapter, gradient, AdamW's moments",
        num_bytes=4 * adapter,
        settings="policy.lora_rank",
    )
    copies = 0 if on_gpu else _TILE_COPIES * min(shape.served.vocab_size, _TILE_VOCABULARY)
    tiles = num_scored * (_TILE_VOCABULARY + copies) * FLOAT32
    budget = "sft.token_budget" if sft.micro_batch_size is None else "sft.micro_batch_size"
    yield from activation_parts(
        shape,
        Rows(num_tokens=num_tokens, width=width),
        layer_bytes(shape, policy, width),
        policy,
        logits_bytes=tiles,
        budget=budget,
        on_gpu=on_gpu,
    )
    yield process_part(on_gpu=True) if on_gpu else Part(name="process", num_bytes=_PROCESS)


def check_sft(parts: Sequence[Part], config: DoctorConfig, card: Card) -> CheckResult:
    """Whether SFT alone fits the card; if not, it is only a note, because a PPO run may need no SFT."""
    needed = sum(part.num_bytes for part in parts)
    if needed <= card.memory_bytes:
        return ok("memory, SFT", f"{size_text(needed)} of {size_text(card.memory_bytes)}, alone")
    text = f"SFT needs {size_text(needed)} of {size_text(card.memory_bytes)}"
    if config.sft.micro_batch_size is None:
        advice = f"sft.token_budget = {config.sft.token_budget // 2}"
    else:
        advice = f"sft.micro_batch_size = {max(1, config.sft.micro_batch_size // 2)}"
    if not config.policy.gradient_checkpointing:
        advice = "policy.gradient_checkpointing = true"
    return note("memory, SFT", text, advice)
