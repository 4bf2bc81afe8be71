"""Layers with sliding windows in prefix trees, and layers that carry a state: the numbers of each sequence by itself."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    Olmo3Config,
    OlmoHybridConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
)

from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.model.attention import Attention, attention_of, require_shared_rows
from trainer.model.batches.batch import micro_batches
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role

CPU = torch.device("cpu")
WINDOW = 4
ROUNDING = 1e-4
"""Far above the rounding of float32 in logits of about 1."""
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
MIXED = ["sliding_attention", "full_attention"]
Config = Callable[..., PreTrainedConfig]
WINDOWED: dict[str, Config] = {
    "gemma3": partial(Gemma3TextConfig, sliding_window=WINDOW, layer_types=MIXED),
    "olmo3": partial(Olmo3Config, sliding_window=WINDOW, layer_types=MIXED),
    "qwen2": partial(
        Qwen2Config, use_sliding_window=True, sliding_window=WINDOW, layer_types=MIXED
    ),
    "qwen3, all": partial(
        Qwen3Config, use_sliding_window=True, sliding_window=WINDOW, layer_types=MIXED[:1] * 2
    ),
    "mistral": partial(MistralConfig, sliding_window=WINDOW),
    "phi3": partial(Phi3Config, sliding_window=WINDOW),
}

DELTA_NET: dict[str, Any] = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
STATEFUL: dict[str, Config] = {
    "lfm2": partial(
        Lfm2Config, block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention"]
    ),
    "qwen3.5": partial(Qwen3_5TextConfig, **DELTA_NET),
    "olmo-hybrid": partial(OlmoHybridConfig, **DELTA_NET),
}


def roles_of(folder: Path, config: Config, **settings: Any) -> PolicyRoles:
    """Roles on a base with random weights, with a random policy."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config(**SHAPE)).save_pretrained(folder)
    policy = PolicyConfig(
        base_model=str(folder),
        lora_rank=2,
        lora_alpha=4,
        target_modules=("all-linear",),
        dtype="float32",
        **settings,
    )
    roles = PolicyRoles(policy, device=CPU, serve_dtype=torch.float32)
    state = roles.adapter_state(Role.POLICY)
    roles.load_adapter_state(
        Role.POLICY, {name: 0.3 * torch.randn_like(tensor) for name, tensor in state.items()}
    )
    return roles


def sample(prompt: tuple[int, ...], completion: tuple[int, ...]) -> Sample:
    return Sample(
        prompt_ids=prompt,
        completion_ids=completion,
        sampler_logprobs=(0.0,) * len(completion),
        temperature=1.0,
        top_p=1.0,
        reward=0.0,
        truncated=False,
        version=0,
    )


PROMPT = (5, 9, 13, 17, 21, 25)
SAMPLES = [
    sample(PROMPT, (30, 31, 32, 33, 34, 35)),
    sample(PROMPT, (30, 31, 40, 41)),
    sample(PROMPT[:3], (50, 51)),
    sample((7, 8), (60, 61, 62, 63, 1, 2, 3)),
]


def logprobs_alone(roles: PolicyRoles, one: Sample) -> Tensor:
    roles.activate(Role.POLICY)
    model = roles.model.get_base_model()
    logits = model(torch.tensor([[*one.prompt_ids, *one.completion_ids]]), use_cache=False).logits
    logprobs = logits[0, len(one.prompt_ids) - 1 : -1].log_softmax(dim=-1)
    found: Tensor = logprobs[range(len(one.completion_ids)), list(one.completion_ids)]
    return found


@pytest.mark.parametrize("kind", WINDOWED)
def test_trees_give_the_numbers_of_each_sequence_by_itself(kind: str, tmp_path: Path) -> None:
    roles = roles_of(tmp_path, WINDOWED[kind])
    with torch.no_grad():
        alone = [logprobs_alone(roles, one) for one in SAMPLES]
    for token_budget in (10, 16, 200):
        found = roles.completion_logprobs(Role.POLICY, SAMPLES, token_budget=token_budget)
        for expected, logprobs in zip(alone, found, strict=True):
            torch.testing.assert_close(logprobs, expected, atol=ROUNDING, rtol=0)
    # The window makes a difference that is none of rounding.
    roles._attention = replace(roles._attention, window=100)
    without = roles.completion_logprobs(Role.POLICY, SAMPLES, token_budget=200)
    assert float((without[0] - alone[0]).abs().max()) > 100 * ROUNDING


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", STATEFUL)
def test_layers_with_a_state_compute_a_row_for_each_sequence(
    kind: str, checkpointing: bool, tmp_path: Path
) -> None:
    roles = roles_of(tmp_path, STATEFUL[kind], gradient_checkpointing=checkpointing)
    parameters = roles.adapter_parameters(Role.POLICY)
    by_itself = [logprobs_alone(roles, one) for one in SAMPLES]
    gradients = torch.autograd.grad(torch.cat(by_itself).sum(), parameters)
    alone = [logprobs.detach() for logprobs in by_itself]
    for token_budget in (10, 30, 200):
        batches = roles.micro_batches(SAMPLES, token_budget=token_budget)
        assert sum(len(batch.rows.token_ids) for batch in batches) == len(SAMPLES)
        found = [roles.token_logprobs(Role.POLICY, batch) for batch in batches]
        total = torch.stack([of_batch.logprobs.sum() for of_batch in found]).sum()
        for gradient, expected in zip(
            torch.autograd.grad(total, parameters), gradients, strict=True
        ):
            torch.testing.assert_close(gradient, expected, atol=10 * ROUNDING, rtol=ROUNDING)
        by_sample = roles.completion_logprobs(Role.POLICY, SAMPLES, token_budget=token_budget)
        for logprobs, exact in zip(by_sample, alone, strict=True):
            torch.testing.assert_close(logprobs, exact, atol=ROUNDING, rtol=0)
    # In a tree, a sequence would take the state of its neighbour.
    roles._attention = Attention()
    in_trees = roles.completion_logprobs(Role.POLICY, SAMPLES, token_budget=200)
    differences = [
        float((tree - exact).abs().max()) for tree, exact in zip(in_trees, alone, strict=True)
    ]
    assert max(differences) > 100 * ROUNDING


def test_the_window_is_seen_where_it_is_shorter_than_the_row() -> None:
    (batch,) = micro_batches(SAMPLES, token_budget=200, hidden_size=32, device=CPU)
    rows = batch.rows
    assert torch.equal(rows.windowed_mask(100), rows.attention_mask)
    assert int(rows.windowed_mask(1).sum()) == rows.token_ids.numel()
    narrow = rows.windowed_mask(WINDOW)
    assert int(narrow.sum(dim=-1).max()) == WINDOW < int(rows.attention_mask.sum(dim=-1).max())
    assert not (narrow & ~rows.attention_mask).any()


def loaded(config: PreTrainedConfig) -> Any:
    """A stand-in for a loaded model, with what decides what its layers see."""
    return SimpleNamespace(config=config, _is_stateful=False)


@pytest.mark.parametrize(
    ("config", "setting", "complaint"),
    [
        (Gemma2Config, {}, "attn_logit_softcapping = 50.0"),
        (LlamaConfig, {"logits_scaling": 8.0}, "logits_scaling = 8.0"),
        (FalconH1Config, {"lm_head_multiplier": 0.04}, "lm_head_multiplier = 0.04"),
        (LlamaConfig, {"attn_implementation": "eager"}, "its attention is 'eager'"),
    ],
)
def test_what_trees_cannot_compute_is_refused_by_name(
    config: Config, setting: dict[str, Any], complaint: str
) -> None:
    made = config(**{**SHAPE, **setting})
    if made._attn_implementation is None:
        made._attn_implementation = "sdpa"
    with pytest.raises(UsageError, match=complaint):
        attention_of(loaded(made), "some/model")


def test_a_window_that_no_layer_has_is_none() -> None:
    config = AutoConfig.for_model("qwen2", **SHAPE, sliding_window=WINDOW)
    config.sliding_window, config._attn_implementation = WINDOW, "sdpa"
    assert attention_of(loaded(config), "some/model") == Attention()


def test_a_base_of_other_modules_is_refused_by_name(tmp_path: Path) -> None:
    sizes = {name: SHAPE[name] for name in ("vocab_size", "hidden_size", "num_attention_heads")}
    AutoModelForCausalLM.from_config(GPTNeoXConfig(**sizes, num_hidden_layers=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UsageError, match="GPTNeoXForCausalLM has no modules called model"):
        PolicyRoles(PolicyConfig(base_model=str(tmp_path)), device=CPU, serve_dtype=torch.float32)


def test_demonstrations_are_not_packed_where_a_state_would_reach_the_next(tmp_path: Path) -> None:
    STATEFUL["lfm2"](**SHAPE, architectures=["Lfm2ForCausalLM"]).save_pretrained(tmp_path / "lfm2")
    with pytest.raises(UsageError, match=r"sft\.packing: layers of .* carry a state"):
        require_shared_rows(str(tmp_path / "lfm2"))
    LlamaConfig(**SHAPE).save_pretrained(tmp_path / "llama")
    require_shared_rows(str(tmp_path / "llama"))
