"""The base in 4 bits: the same weights on both sides, and a policy that trains on it."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    PreTrainedConfig,
    Qwen3_5Config,
)
from transformers.utils.logging import is_progress_bar_enabled

from trainer.config.sections import PolicyConfig, PPOConfig
from trainer.errors import UsageError
from trainer.model import base_model
from trainer.model.base_files import load_tokenizer, require_base_model
from trainer.model.base_model import (
    hide_progress_bars,
    load_base,
    save_dequantized,
    save_language_model,
)
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.update import PPOUpdate

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("shows_downloads", [True, False])
def test_bars_of_downloads_stay_when_those_of_weights_go(
    shows_downloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled: list[str] = []
    monkeypatch.setattr(base_model, "are_progress_bars_disabled", lambda: not shows_downloads)
    monkeypatch.setattr(base_model, "enable_progress_bars", lambda: enabled.append("hub"))
    hide_progress_bars()
    assert not is_progress_bar_enabled()
    assert enabled == (["hub"] if shows_downloads else [])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dequantized_base_is_the_4_bit_one(dtype: str, tiny_base: Path, tmp_path: Path) -> None:
    policy = PolicyConfig.model_validate(
        {"base_model": str(tiny_base), "dtype": dtype, "quantization": "nf4"}
    )
    save_dequantized(policy, tmp_path / "served", CPU)
    served = policy.model_copy(
        update={"base_model": str(tmp_path / "served"), "quantization": None}
    )
    ids = torch.arange(40).view(2, 20)
    four_bit = load_base(policy, CPU)
    assert type(four_bit.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    logits = four_bit(ids).logits
    assert torch.equal(logits, load_base(served, CPU)(ids).logits)
    whole = load_base(policy.model_copy(update={"quantization": None}), CPU)(ids).logits
    assert not torch.allclose(logits, whole, atol=1e-3)
    with pytest.raises(UsageError, match=r"^serve\.model or --output: .* exists already"):
        save_dequantized(policy, tmp_path / "served", CPU)


def test_without_bitsandbytes_4_bits_are_a_one_line_error(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.model.base_model.is_installed", lambda name: False)
    policy = PolicyConfig(base_model=str(tiny_base), quantization="nf4")
    with pytest.raises(
        UsageError, match=r"policy\.quantization = nf4 needs bitsandbytes"
    ) as caught:
        load_base(policy, CPU)
    assert "\n" not in str(caught.value)


def test_a_policy_on_4_bits_is_the_one_on_the_served_weights_and_learns(
    tiny_base: Path, tmp_path: Path
) -> None:
    policy = PolicyConfig(base_model=str(tiny_base), lora_rank=4, quantization="nf4")
    save_dequantized(policy, tmp_path / "served", CPU)
    served = policy.model_copy(
        update={"base_model": str(tmp_path / "served"), "quantization": None}
    )
    torch.manual_seed(0)
    roles = PolicyRoles(policy, device=CPU, serve_dtype=torch.float32)
    samples = [
        Sample(
            prompt_ids=(5, 6, 7),
            completion_ids=(8 + i, 9, 10),
            sampler_logprobs=(-1.0, -1.0, -1.0),
            temperature=0.5,
            top_p=0.9,
            reward=float(i),
            truncated=False,
            version=0,
        )
        for i in range(4)
    ]
    update = PPOUpdate(roles, PPOConfig(learning_rate=1e-2, kl_coef=0.0))
    before = torch.stack(roles.completion_logprobs(Role.POLICY, samples, token_budget=99)).sum(
        dim=1
    )
    for step in range(3):
        roles.load_adapter_state(Role.PROXIMAL, roles.rounded_policy())
        update.step(update.experience([samples], seed=str(step)), train_policy=True)
    after = torch.stack(roles.completion_logprobs(Role.POLICY, samples, token_budget=99)).sum(dim=1)
    gained = after - before
    assert gained[3] > gained[0]

    (tmp_path / "adapter").mkdir()
    roles.export_policy(tmp_path / "adapter")
    on_served = PolicyRoles(
        served.model_copy(update={"adapter": tmp_path / "adapter"}),
        device=CPU,
        serve_dtype=torch.float32,
    )
    found = torch.stack(on_served.completion_logprobs(Role.POLICY, samples, token_budget=99)).sum(
        dim=1
    )
    torch.testing.assert_close(found, after, atol=1e-5, rtol=0)


TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32}


def qwen3_5(vocab_size: int) -> Qwen3_5Config:
    layers = ["linear_attention", "full_attention"]
    vision = {"depth": 1, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 16}
    return Qwen3_5Config(
        text_config={**TEXT, "vocab_size": vocab_size, "layer_types": layers},
        vision_config={**VISION, **vision},
    )


def gemma3(vocab_size: int) -> Gemma3Config:
    """Its embeddings and output layer are one matrix."""
    vision = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    return Gemma3Config(
        text_config={**TEXT, "vocab_size": vocab_size},
        vision_config={**VISION, **vision},
        image_token_index=vocab_size - 1,
    )


def contradictory(vocab_size: int, *, tied: bool) -> Qwen3_5Config:
    """A configuration whose text part contradicts the whole about whether embeddings and output layer are tied."""
    config = qwen3_5(vocab_size)
    config.tie_word_embeddings, config.text_config.tie_word_embeddings = tied, not tied
    return config


@pytest.mark.parametrize(
    "config",
    [qwen3_5, gemma3, partial(contradictory, tied=True), partial(contradictory, tied=False)],
    ids=["qwen3.5", "gemma3", "tied", "not tied"],
)
def test_the_language_model_of_a_model_of_text_and_images_is_written_alone(
    config: Callable[[int], PreTrainedConfig], tiny_base: Path, tmp_path: Path
) -> None:
    whole, alone = tmp_path / "whole", tmp_path / "alone"
    torch.manual_seed(0)
    tokenizer = load_tokenizer(str(tiny_base))
    model = AutoModelForImageTextToText.from_config(config(len(tokenizer)), dtype=torch.bfloat16)
    model.save_pretrained(whole)
    tokenizer.save_pretrained(whole)
    policy = PolicyConfig(base_model=str(whole))
    with pytest.raises(UsageError, match=r"a model of more than text .* text-model"):
        load_base(policy, CPU)
    with pytest.raises(UsageError, match=r"a model of more than text"):
        require_base_model(str(whole))

    save_language_model(str(whole), alone)
    require_base_model(str(alone))
    # As it came: an auto dtype is float32 on a CPU.
    updated = {"base_model": str(alone), "dtype": "bfloat16"}
    base = load_base(policy.model_copy(update=updated), CPU)
    assert json.loads((alone / "config.json").read_text())["dtype"] == "bfloat16"
    ids = torch.arange(40).view(2, 20)
    assert torch.equal(base(ids).logits, model.eval()(ids).logits)
    with pytest.raises(UsageError, match="exists already"):
        save_language_model(str(whole), alone)
    with pytest.raises(UsageError, match="takes text alone"):
        save_language_model(str(alone), tmp_path / "again")

    kept = {name: t for name, t in load_file(whole / WEIGHTS).items() if "q_proj" not in name}
    save_file(kept, whole / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"its files lack \d+ weights of .*q_proj"):
        save_language_model(str(whole), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_language_model_without_a_class_of_its_own_is_one_line(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(str(tiny_base))
    AutoModelForImageTextToText.from_config(qwen3_5(len(tokenizer))).save_pretrained(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "a")

    def unknown(*_: object, **__: object) -> None:
        raise ValueError("Unrecognized configuration class\nof which there are many")

    monkeypatch.setattr(f"{base_model.__name__}.AutoModelForCausalLM.from_config", unknown)
    with pytest.raises(UsageError, match="no class for the language model of Qwen3_5F") as caught:
        save_language_model(str(tmp_path / "a"), tmp_path / "b")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_a_base_that_lacks_weights_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    """Transformers would draw them at random, and say so in a table."""
    shutil.copytree(tiny_base, tmp_path / "base")
    kept = load_file(tmp_path / "base" / WEIGHTS)
    kept.pop("model.layers.0.mlp.up_proj.weight")
    save_file(kept, tmp_path / "base" / WEIGHTS, metadata={"format": "pt"})
    policy = PolicyConfig(base_model=str(tmp_path / "base"))
    with pytest.raises(
        UsageError, match=r"its files lack 1 weights of Qwen2.*layers\.0\.mlp\.up_proj"
    ):
        load_base(policy, CPU)
