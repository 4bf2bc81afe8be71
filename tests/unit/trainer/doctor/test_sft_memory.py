"""SFT's memory plan against PyTorch's allocator, and what is said where it does not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from trainer.config.sections import DoctorConfig
from trainer.doctor.device import Card
from trainer.doctor.memory_parts import Part
from trainer.doctor.model_shape import read_shape
from trainer.doctor.results import GIB, CheckStatus
from trainer.doctor.sft_memory import check_sft, sft_parts
from trainer.sft.scored_tokens import scoring_completions_only


def config(base: Path, *, checkpointing: bool = False, **sft: Any) -> DoctorConfig:
    policy = {"base_model": str(base), "gradient_checkpointing": checkpointing, "dtype": "float32"}
    return DoctorConfig.model_validate({"policy": policy, "sft": sft})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with the proportions of SmolLM2, and a vocabulary large enough to matter."""
    folder = tmp_path_factory.mktemp("small")
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=3,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    ).save_pretrained(folder)
    return folder


def parts_of(asked: DoctorConfig, num_tokens: int) -> dict[str, Part]:
    """The memory plan for demonstrations of which a quarter is the solution."""
    shape = read_shape(asked.policy.base_model, asked.policy.target_modules)
    completion_tokens = num_tokens // 4
    parts = sft_parts(
        shape,
        asked,
        prompt_tokens=num_tokens - completion_tokens,
        completion_tokens=completion_tokens,
        on_gpu=False,
    )
    return {part.name: part for part in parts}


def peak_bytes_of_a_pass(asked: DoctorConfig, num_examples: int, num_tokens: int) -> int:
    """The most bytes that TRL's forward and backward pass allocates at a time."""
    policy = asked.policy
    model = AutoModelForCausalLM.from_pretrained(policy.base_model).requires_grad_(False)
    if policy.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    adapted = get_peft_model(
        model,
        LoraConfig(r=policy.lora_rank, target_modules=list(policy.target_modules)),
    ).train()
    ids = torch.randint(4096, (num_examples, num_tokens))
    labels = ids.clone()
    labels[:, : -(num_tokens // 4)] = -100
    mask = torch.ones_like(ids)
    mask[:, -5:] = 0

    def work() -> None:
        out = adapted(
            input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, use_cache=False
        )
        out.log_probs.sum().backward()

    with scoring_completions_only():
        work()
        adapted.zero_grad(set_to_none=False)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            work()
    events = profiler.profiler.kineto_results.events()
    live = peak = 0
    for change in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        live += change.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_examples", "num_tokens", "checkpointing"),
    [(8, 100, False), (2, 100, False), (8, 100, True)],
)
def test_the_plan_is_what_the_allocator_says(
    num_examples: int, num_tokens: int, checkpointing: bool, base: Path
) -> None:
    asked = config(base, checkpointing=checkpointing, batch_size=8, micro_batch_size=num_examples)
    measured = peak_bytes_of_a_pass(asked, num_examples, num_tokens)
    parts = parts_of(asked, num_tokens)
    planned = sum(
        parts[name].num_bytes for name in ("activations", "working memory of a layer or the logits")
    )
    assert planned == pytest.approx(measured, rel=0.15)


def test_a_smaller_budget_takes_less(base: Path) -> None:
    def activations(**sft: Any) -> float:
        return parts_of(config(base, **sft), 128)["activations"].num_bytes

    assert activations(token_budget=1024) == 2 * activations(token_budget=512)
    assert activations(token_budget=99) == activations(micro_batch_size=1)
    assert "sft.token_budget" in parts_of(config(base), 128)["activations"].settings
    by_examples = parts_of(config(base, micro_batch_size=4), 128)
    assert "sft.micro_batch_size" in by_examples["activations"].settings


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"token_budget": 4096}, "policy.gradient_checkpointing = true"),
        ({"token_budget": 4096, "checkpointing": True}, "sft.token_budget = 2048"),
        ({"micro_batch_size": 8, "checkpointing": True}, "sft.micro_batch_size = 4"),
    ],
)
def test_what_does_not_fit_is_said_with_the_setting(
    settings: dict[str, Any], advice: str, base: Path
) -> None:
    asked = config(base, **settings)
    parts = list(parts_of(asked, 256).values())
    result = check_sft(parts, asked, Card(on_gpu=False, memory_bytes=1e6))
    assert (result.status, result.advice) == (CheckStatus.NOTE, advice)
    fits = check_sft(parts, asked, Card(on_gpu=False, memory_bytes=64 * GIB))
    assert fits.status is CheckStatus.OK
    assert "alone" in fits.text
