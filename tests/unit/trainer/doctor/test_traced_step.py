"""A step at the presets' shapes, without a GPU: where its tensors are, which are made, and the memory plan."""

import math
import random
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig, Qwen3Config

from regime_w import build_all_arms
from tests.unit.model_shapes import QWEN2_1_5B
from tests.unit.trainer.doctor.traced import traced_step
from trainer.config.sections import PolicyConfig, PPOConfig, ServeConfig, TrainConfig
from trainer.doctor.memory_parts import Rows
from trainer.doctor.memory_plan import plan_memory
from trainer.doctor.model_shape import read_shape
from trainer.doctor.results import GIB
from trainer.model.batch import Sample
from trainer.model.logprobs import CHUNK_LOGITS

pytestmark = pytest.mark.slow

VOCABULARY = 151_936
SHAPES: dict[str, PretrainedConfig] = {
    "1.5B": QWEN2_1_5B,
    "8B": Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=4096,
        intermediate_size=12_288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    ),
}
NOT_TENSORS = ("CUDA context", "fragmentation")


def groups(num_questions: int, *, prompt_tokens: int, completion_tokens: int) -> list[list[Sample]]:
    """Random tokens; the arms of a family share their prompt."""
    rng = random.Random(0)
    made = []
    for _ in range(num_questions):
        prompts = {
            arm.system_prompt: tuple(rng.choices(range(5_000), k=prompt_tokens))
            for arm in build_all_arms()
        }
        made.append(
            [
                Sample(
                    prompt_ids=prompts[arm.system_prompt],
                    completion_ids=tuple(rng.choices(range(150_000), k=completion_tokens)),
                    sampler_logprobs=(-1.0,) * completion_tokens,
                    temperature=arm.temperature,
                    top_p=arm.top_p,
                    reward=rng.random(),
                    truncated=False,
                    version=1,
                )
                for arm in build_all_arms()
            ]
        )
    return made


@pytest.mark.parametrize("recomputed", [True, False], ids=["checkpointing", "kept"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_step_on_a_gpu_is_as_planned(name: str, recomputed: bool, tmp_path: Path) -> None:
    config = SHAPES[name]
    config.save_pretrained(tmp_path)
    policy = PolicyConfig(
        base_model=str(tmp_path), dtype="bfloat16", gradient_checkpointing=recomputed
    )
    ppo = PPOConfig(token_budget=8192, questions_per_mini_batch=4, critic_warmup_steps=0)
    step = traced_step(config, policy, ppo, groups(4, prompt_tokens=60, completion_tokens=256))

    # Neither the base nor the activations are copied in float32: a layer's, not those of a chunk of logits.
    float32 = {shape for shape, dtype in step.made if dtype == torch.float32}
    assert not float32 & step.weights
    assert not float32 & {shape[::-1] for shape in step.weights}
    num_tokens = {batch.rows.token_ids.numel() for batch in step.batches}
    inner = config.intermediate_size
    assert not {
        shape for shape in float32 if math.prod(shape) // inner in num_tokens and shape[-1] == inner
    }
    largest = max(len(shape) and shape[-1] == VOCABULARY and shape[0] for shape, _ in step.made)
    assert 0 < largest <= CHUNK_LOGITS // VOCABULARY

    rows = max((batch.rows.token_ids for batch in step.batches), key=lambda ids: ids.numel())
    plan = plan_memory(
        read_shape(str(tmp_path), policy.target_modules),
        TrainConfig(policy=policy, ppo=ppo),
        ServeConfig(gpu_memory_utilization=0.45),
        card_bytes=80 * GIB,
        on_gpu=True,
        rows=Rows(num_tokens=rows.numel(), width=rows.shape[1]),
    )
    planned = sum(part.num_bytes for part in plan.trainer if part.name not in NOT_TENSORS)
    assert planned == pytest.approx(step.peak_bytes, rel=0.1)
