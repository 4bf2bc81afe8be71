"""A step at the presets' shapes, without a GPU: where its tensors are, which are made, and the memory plan."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig, Qwen2Config

from benchmarks.model_shapes import QWEN2_1_5B, QWEN3_8B, VOCABULARY, random_groups
from regime_w import ArmSpec, build_all_arms, build_exploring_arms
from tests.unit.trainer.doctor.traced import traced_step
from trainer.config.sections import DoctorConfig, PolicyConfig, PPOConfig
from trainer.doctor.device import Card
from trainer.doctor.memory_parts import Rows
from trainer.doctor.memory_plan import plan_memory
from trainer.doctor.model_shape import read_shape
from trainer.doctor.results import GIB
from trainer.model.logprobs import CHUNK_LOGITS

pytestmark = pytest.mark.slow

SHAPES: dict[str, PretrainedConfig] = {"1.5B": QWEN2_1_5B, "8B": QWEN3_8B}
NOT_TENSORS = ("CUDA context", "fragmentation")


@pytest.mark.parametrize(
    ("name", "recomputed", "arms"),
    [
        ("1.5B", True, build_all_arms()),
        ("1.5B", False, build_exploring_arms()),  # the preset's
        ("8B", True, build_exploring_arms()),
        ("8B", False, build_all_arms()),
    ],
    ids=["1.5B, checkpointing", "1.5B, kept, top_p 1", "8B, checkpointing, top_p 1", "8B, kept"],
)
def test_a_step_on_a_gpu_is_as_planned(
    name: str, recomputed: bool, arms: Sequence[ArmSpec], tmp_path: Path
) -> None:
    config = SHAPES[name]
    config.save_pretrained(tmp_path)
    policy = PolicyConfig(
        base_model=str(tmp_path), dtype="bfloat16", gradient_checkpointing=recomputed
    )
    ppo = PPOConfig(token_budget=8192, questions_per_mini_batch=4, critic_warmup_steps=0)
    groups = random_groups(4, prompt_tokens=60, completion_tokens=256, arms=arms)
    step = traced_step(config, policy, ppo, groups)

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
    assert 0 < largest <= CHUNK_LOGITS["cuda"] // VOCABULARY

    rows = max((batch.rows.token_ids for batch in step.batches), key=lambda ids: ids.numel())
    plan = plan_memory(
        read_shape(str(tmp_path), policy.target_modules),
        DoctorConfig(policy=policy, ppo=ppo),
        Card(on_gpu=True, memory_bytes=80 * GIB),
        rows=Rows(num_tokens=rows.numel(), width=rows.shape[1]),
    )
    planned = sum(part.num_bytes for part in plan.trainer if part.name not in NOT_TENSORS)
    assert planned == pytest.approx(step.peak_bytes, rel=0.1)


def test_an_update_waits_as_often_whatever_its_micro_batches(tmp_path: Path) -> None:
    # The GPU would have nothing to do between two of them.
    config = Qwen2Config(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    config.save_pretrained(tmp_path)
    policy = PolicyConfig(base_model=str(tmp_path), dtype="bfloat16")
    groups = random_groups(4, prompt_tokens=60, completion_tokens=256)
    steps = [
        traced_step(
            config,
            policy,
            PPOConfig(token_budget=budget, questions_per_mini_batch=2, critic_warmup_steps=0),
            groups,
        )
        for budget in (2048, 16_384)
    ]
    num_batches, num_waits = zip(*((len(s.batches), s.num_waits) for s in steps), strict=True)
    assert num_batches[0] > num_batches[1]
    assert num_waits[0] == num_waits[1]
