"""The memory plan against PyTorch's allocator, and what it advises where a plan does not fit."""

import gc
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    Lfm2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
)

from benchmarks.model_shapes import QWEN2_1_5B, QWEN3_8B
from regime_w import build_all_arms
from trainer.config.loading import load_config
from trainer.config.sections import DoctorConfig, PolicyConfig, ServeConfig
from trainer.doctor.device import Card
from trainer.doctor.memory_advice import advise
from trainer.doctor.memory_parts import Rows
from trainer.doctor.memory_plan import plan_memory
from trainer.doctor.model_shape import ModelShape, read_shape
from trainer.doctor.results import GIB
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles
from trainer.ppo.update import PPOUpdate

CONFIGS = Path(__file__).resolve().parents[4] / "deploy/configs"
GUIDE = (CONFIGS.parent / "README.md").read_text()
CPU = torch.device("cpu")
SERVE = ServeConfig(gpu_memory_utilization=0.45)
EIGHT_B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that ``work`` has allocated at a time, beyond what was allocated before.

    They come from the allocator's own running total, which does not depend on the events' clock. What earlier tests
    left is collected first, since it would count as freed by the work if it were freed meanwhile.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    tree = profiler.profiler.kineto_results.experimental_event_tree()
    events, totals = list(tree), []
    while events:
        event = events.pop()
        events += event.children
        if event.typed[0] == _EventType.Allocation:
            totals.append((event.typed[1].total_allocated, event.typed[1].alloc_size))
    before = min(total - max(0, size) for total, size in totals)
    return int(max(total for total, _ in totals) - before)


def samples(num_questions: int, num_tokens: int) -> list[list[Sample]]:
    """Random tokens; the arms of a family share their prompt."""
    rng = random.Random(0)
    groups = []
    for _ in range(num_questions):
        prompts = {arm.system_prompt: rng.choices(range(500), k=45) for arm in build_all_arms()}
        groups.append(
            [
                Sample(
                    prompt_ids=tuple(prompts[arm.system_prompt]),
                    completion_ids=tuple(rng.choices(range(500), k=num_tokens)),
                    sampler_logprobs=(-1.0,) * num_tokens,
                    temperature=arm.temperature,
                    top_p=arm.top_p,
                    reward=rng.random(),
                    truncated=False,
                    version=1,
                )
                for arm in build_all_arms()
            ]
        )
    return groups


def saved(folder: Path, kind: Callable[..., PreTrainedConfig], **changes: int) -> str:
    sizes: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        # Large enough for a policy that is as sure of its tokens as a trained one.
        "initializer_range": 0.2,
    }
    AutoModelForCausalLM.from_config(kind(**(sizes | changes))).save_pretrained(folder)
    return str(folder)


FLOAT32: dict[str, object] = {"dtype": "float32"}
BFLOAT16: dict[str, object] = {"dtype": "bfloat16"}
ALL_LINEAR: dict[str, object] = {"target_modules": ["all-linear"]}
GROUPED = {"num_key_value_heads": 1, "intermediate_size": 1024, "num_hidden_layers": 6}
DELTA_RULE = partial(
    Qwen3_5TextConfig,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=32,
    linear_value_head_dim=32,
    head_dim=32,
    layer_types=["linear_attention"] * 3 + ["full_attention"],
)
CONVOLUTION = partial(
    Lfm2Config,
    block_auto_adjust_ff_dim=False,
    layer_types=["conv", "conv", "full_attention", "conv"],
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "shape", "policy"),
    [
        (Qwen2Config, {}, FLOAT32),
        (Qwen2Config, {}, BFLOAT16),
        (Qwen2Config, {}, {**BFLOAT16, "autocast": True}),
        # Many CPUs emulate bfloat16, some twenty times as slowly: the other shapes are in float32.
        (Qwen2Config, {}, {**FLOAT32, "gradient_checkpointing": True}),
        (Qwen2Config, GROUPED, FLOAT32),
        (Qwen2Config, GROUPED, {**FLOAT32, "gradient_checkpointing": True}),
        (DELTA_RULE, {}, FLOAT32 | ALL_LINEAR),
        (CONVOLUTION, {}, FLOAT32 | ALL_LINEAR),
    ],
)
def test_the_trainers_plan_is_what_the_allocator_says(
    kind: Callable[..., PreTrainedConfig],
    shape: dict[str, int],
    policy: dict[str, object],
    tmp_path: Path,
) -> None:
    base = saved(tmp_path, kind, **shape)
    config = DoctorConfig(
        policy=PolicyConfig.model_validate({"base_model": base, **policy}), serve=SERVE
    )
    roles = PolicyRoles(config.policy, device=CPU, serve_dtype=torch.float32)
    update = PPOUpdate(roles, config.ppo)
    mini_batches = update.experience(samples(4, 40), seed="0")
    update.step(mini_batches, train_policy=True)  # makes the optimizers' moments
    moments = [
        value
        for optimizer in (update.policy_optimizer, update.critic_optimizer)
        for state in optimizer.state.values()
        for value in state.values()
    ]
    resident = [*roles.parameters(), *moments]
    measured = sum(tensor.numel() * tensor.element_size() for tensor in resident)
    measured += peak_bytes(lambda: update.step(mini_batches, train_policy=True))

    rows = max(
        (e.batch.rows for m in mini_batches for e in m), key=lambda rows: rows.token_ids.numel()
    )
    plan = plan_memory(
        read_shape(base, config.policy.target_modules),
        config,
        Card(on_gpu=False, memory_bytes=GIB),
        rows=Rows(num_tokens=rows.token_ids.numel(), width=rows.token_ids.shape[1]),
    )
    planned = sum(part.num_bytes for part in plan.trainer if part.name != "process")
    assert planned == pytest.approx(measured, rel=0.1)


def gpu(gib: float) -> Card:
    return Card(on_gpu=True, memory_bytes=gib * GIB)


@pytest.fixture(scope="module")
def eight_b(tmp_path_factory: pytest.TempPathFactory) -> ModelShape:
    folder = tmp_path_factory.mktemp("8b")
    EIGHT_B.save_pretrained(folder)
    return read_shape(str(folder), PolicyConfig().target_modules)


def test_a_model_is_counted_without_its_weights(eight_b: ModelShape) -> None:
    # Llama 3's report says 8.03 billion; of a layer: q, k, v, o, gate, up and down.
    per_layer = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    assert eight_b.num_linear_parameters == 32 * per_layer
    assert eight_b.served.num_parameters == 32 * (per_layer + 2 * 4096) + 2 * 128_256 * 4096 + 4096
    assert eight_b.adapter_parameters_per_rank == 32 * (2 * 8192 + 2 * 5120 + 3 * 18_432)
    attention = eight_b.attention_layers
    assert (attention.kv_size, attention.query_size) == (1024, 4096)


def test_parts_add_up_and_none_is_negative(eight_b: ModelShape) -> None:
    plan = plan_memory(eight_b, DoctorConfig(serve=SERVE), gpu(80))
    assert all(part.num_bytes > 0 for part in (*plan.server, *plan.trainer))
    server = sum(part.num_bytes for part in plan.server)
    assert server + plan.kv_cache_bytes == pytest.approx(0.45 * 80 * GIB)
    # Two of the 55 % are kept free.
    assert plan.trainer_share_bytes == pytest.approx(0.53 * 80 * GIB)
    # Two numbers a layer and key-value head, 2 bytes each.
    assert plan.kv_bytes_per_token == 131_072


def test_a_model_with_states_needs_room_for_one_of_each_sequence(tmp_path: Path) -> None:
    base = saved(tmp_path, DELTA_RULE)
    shape = read_shape(base, PolicyConfig().target_modules)
    assert (shape.attention_layers.num_layers, shape.num_delta_layers) == (1, 3)
    # Four heads' matrices in float32, and three inputs of 2 · 64 + 128 channels.
    assert shape.state_bytes == 3 * (4 * 32 * 32 * 4 + 3 * 256 * 2)
    plan = plan_memory(shape, DoctorConfig(serve=SERVE), gpu(80))
    (states,) = [part for part in plan.server if part.name == "sequences' states"]
    assert states.num_bytes == 512 * shape.state_bytes
    assert plan.kv_bytes_per_token == 2 * 1 * 4 * 32 * 2
    assert not shape.is_fused


@pytest.mark.parametrize(
    "policy", [BFLOAT16, {**BFLOAT16, "quantization": "nf4"}], ids=["lora", "qlora"]
)
@pytest.mark.parametrize("card_gib", [40, 80])
def test_what_is_advised_fits(eight_b: ModelShape, card_gib: int, policy: dict[str, str]) -> None:
    config = DoctorConfig(policy=PolicyConfig.model_validate(policy), serve=SERVE)
    changes = advise(eight_b, config, gpu(card_gib))
    assert not plan_memory(eight_b, config, gpu(card_gib)).fits
    assert changes
    sections = config.model_dump()
    for change in changes:
        name, value = change.split(" = ")
        section, field = name.split(".")
        sections[section][field] = json.loads(value)
    assert plan_memory(eight_b, DoctorConfig.model_validate(sections), gpu(card_gib)).fits


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("gsm8k_a100*.toml")), ids=lambda p: p.stem)
def test_presets_fit_their_card(path: Path, eight_b: ModelShape, tmp_path: Path) -> None:
    shape = eight_b
    if "_8b" not in path.stem:
        QWEN2_1_5B.save_pretrained(tmp_path)
        shape = read_shape(str(tmp_path), PolicyConfig().target_modules)
    config = load_config(DoctorConfig, ["--config", str(path)], prog="test")
    assert plan_memory(shape, config, gpu(80)).fits


@pytest.mark.parametrize(
    ("preset", "card_gib", "changes", "tokens"),
    [
        ("gsm8k_a100_8b", 79.2, [], "126,103"),
        ("gsm8k_a100_8b_qlora", 39.4, ["--serve.gpu_memory_utilization", "0.61"], "41,590"),
        ("gsm8k_a100_8b_qlora", 79.2, [], "126,103"),
    ],
)
def test_the_guides_table_of_what_fits_is_the_plan(
    preset: str, card_gib: float, changes: list[str], tokens: str, tmp_path: Path
) -> None:
    QWEN3_8B.save_pretrained(tmp_path)
    config = load_config(
        DoctorConfig, ["--config", str(CONFIGS / f"{preset}.toml"), *changes], prog="test"
    )
    shape = read_shape(str(tmp_path), config.policy.target_modules)
    plan = plan_memory(shape, config, gpu(card_gib))
    assert plan.fits
    assert f"{plan.kv_tokens:,}" == tokens
    assert f"{tokens} tokens" in GUIDE or f"({tokens})" in GUIDE
    assert f"**{plan.trainer_bytes / GIB:.1f}**" in GUIDE


def test_a_cache_must_hold_a_whole_sequence(eight_b: ModelShape) -> None:
    # Llama 3.1's 131,072 tokens, for which vLLM wants room before it starts.
    shape = replace(eight_b, max_position_tokens=131_072)
    policy = PolicyConfig(dtype="bfloat16", gradient_checkpointing=True)
    config = DoctorConfig(policy=policy, serve=SERVE)
    plan = plan_memory(shape, config, gpu(48))
    assert plan.kv_tokens_needed == 131_072 > plan.kv_tokens
    changes = advise(shape, config, gpu(48))
    assert changes == ("serve.max_model_len = 4096",)


def test_nothing_is_advised_where_all_is_well_or_nothing_helps(eight_b: ModelShape) -> None:
    policy = PolicyConfig(dtype="bfloat16", gradient_checkpointing=True)
    config = DoctorConfig(policy=policy, serve=SERVE)
    assert advise(eight_b, config, gpu(80)) == ()
    assert advise(eight_b, config, gpu(12)) is None


def test_a_server_that_alone_does_not_fit_is_given_fewer_sequences(eight_b: ModelShape) -> None:
    serve = ServeConfig(gpu_memory_utilization=0.9, max_num_seqs=2048)
    changes = advise(eight_b, DoctorConfig(serve=serve, role="server"), gpu(20))
    assert changes is not None
    # Nothing of the trainer's, which is elsewhere.
    names = {change.split(" = ")[0] for change in changes}
    assert "serve.max_num_seqs" in names <= {"serve.max_num_seqs", "serve.gpu_memory_utilization"}


def test_a_whole_machine_is_planned_for_without_a_gpu(eight_b: ModelShape) -> None:
    card = Card(on_gpu=False, memory_bytes=64 * GIB)
    plan = plan_memory(eight_b, DoctorConfig(serve=SERVE), card)
    # Both sides compute in float32 there: 30 GiB each, and no room for both.
    assert plan.server_fits
    assert not plan.trainer_fits
    assert (
        plan.server[0].num_bytes == plan.trainer[0].num_bytes == 4 * eight_b.served.num_parameters
    )
