"""The base in 4 bits: the same weights on both sides, and a policy that trains on it."""

from pathlib import Path

import pytest
import torch
from transformers.utils.logging import is_progress_bar_enabled

from trainer.config.sections import PolicyConfig, PPOConfig
from trainer.errors import UsageError
from trainer.model import base_model
from trainer.model.base_model import hide_progress_bars, load_base, save_dequantized
from trainer.model.batches.batch import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.update import PPOUpdate

CPU = torch.device("cpu")


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
    with pytest.raises(UsageError, match="exists already"):
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
    before = torch.stack(roles.sample_logprobs(Role.POLICY, samples, token_budget=99)).sum(dim=1)
    for step in range(3):
        roles.load_adapter_state(Role.PROXIMAL, roles.rounded_policy())
        update.step(update.experience([samples], seed=str(step)), train_policy=True)
    after = torch.stack(roles.sample_logprobs(Role.POLICY, samples, token_budget=99)).sum(dim=1)
    gained = after - before
    assert gained[3] > gained[0]

    (tmp_path / "adapter").mkdir()
    roles.export_policy(tmp_path / "adapter")
    on_served = PolicyRoles(
        served.model_copy(update={"adapter": tmp_path / "adapter"}),
        device=CPU,
        serve_dtype=torch.float32,
    )
    found = torch.stack(on_served.sample_logprobs(Role.POLICY, samples, token_budget=99)).sum(dim=1)
    torch.testing.assert_close(found, after, atol=1e-5, rtol=0)
