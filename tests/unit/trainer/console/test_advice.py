"""What is said about settings that may not be meant."""

import pytest

from trainer.config.sections import PPOConfig, SFTConfig
from trainer.console.advice import low_learning_rate, no_kl_line, ppo_advice


@pytest.mark.parametrize("rate", [1e-5, 2e-5, 5e-4])
def test_rates_that_lora_learns_at_are_passed_over(rate: float) -> None:
    assert low_learning_rate("ppo.learning_rate", rate) == []


@pytest.mark.parametrize("rate", [9.9e-6, 1e-6, 5e-7])
def test_a_rate_of_full_fine_tuning_is_named_with_what_to_take(rate: float) -> None:
    (line,) = low_learning_rate("sft.learning_rate", rate)
    assert line.startswith(f"sft.learning_rate = {rate:g} is low: LoRA learns at about 10 ×")
    assert line.endswith("take 1e-05 or more")


def test_the_default_rates_are_not_low_and_the_original_recipes_is() -> None:
    assert not low_learning_rate("ppo.learning_rate", PPOConfig().learning_rate)
    assert not low_learning_rate("sft.learning_rate", SFTConfig().learning_rate)
    assert low_learning_rate("ppo.learning_rate", 5e-6)


@pytest.mark.parametrize(
    ("advantage", "warmup_steps", "num_steps", "is_said"),
    [("gae", 2, 2, True), ("gae", 3, 2, True), ("gae", 1, 2, False), ("rloo", 3, 2, False)],
)
def test_a_run_that_trains_the_critic_alone_is_named(
    advantage: str, warmup_steps: int, num_steps: int, is_said: bool
) -> None:
    given = {"advantage": advantage, "critic_warmup_steps": warmup_steps}
    lines = ppo_advice(PPOConfig.model_validate(given), 40, num_steps)
    assert bool(lines) == is_said
    if is_said:
        assert f"ppo.critic_warmup_steps = {warmup_steps} " in lines[0]


@pytest.mark.parametrize(
    ("given", "max_tokens", "is_said"),
    [
        ({}, 90, False),
        ({}, 91, True),
        ({"gae_lambda": 1.0}, 4096, False),
        ({"gae_lambda": 0.99}, 256, False),
        ({"gae_lambda": 0.0}, 256, True),
        ({"length_adaptive_alpha": 0.05}, 256, False),
        ({"advantage": "grpo"}, 256, False),
    ],
)
def test_a_lambda_that_lets_no_reward_reach_the_start_is_named(
    given: dict[str, object], max_tokens: int, is_said: bool
) -> None:
    config = PPOConfig.model_validate(given)
    lines = ppo_advice(config, max_tokens, 10**6)
    assert [line.partition(" = ")[0] for line in lines] == ["ppo.gae_lambda"] * is_said


def test_settings_of_the_kl_penalty_that_do_nothing_from_a_file_are_named() -> None:
    (line,) = no_kl_line(PPOConfig())
    assert line.startswith("no KL penalty: ")
    for key in ("ppo.kl_coef", "ppo.adaptive_kl", "ppo.target_kl", "ppo.clip_high"):
        assert key in line
    assert no_kl_line(PPOConfig(kl_coef=0)) == []
