"""Settings that are changed for a replay."""

import pytest

from trainer.config.sections import PPOConfig, TrainConfig
from trainer.replay.changed_settings import changed_config
from trainer.replay.what_if import Rewards
from trainer.rollouts.rows import RolloutRow


@pytest.mark.parametrize("before", [10.0, None])
@pytest.mark.parametrize(
    ("changes", "horizon", "steps"),
    [
        (["ppo.kl_horizon=50"], 50, None),
        (["ppo.kl_horizon=50", "ppo.kl_horizon_steps=null"], 50, None),
        (["ppo.kl_horizon_steps=4", "ppo.kl_horizon=50"], 50, 4.0),
        (["ppo.kl_horizon_steps=4"], 10_000, 4.0),
    ],
)
def test_the_horizon_that_is_given_is_the_one_that_counts(
    changes: list[str], horizon: int, steps: float | None, before: float | None
) -> None:
    config = TrainConfig(ppo=PPOConfig(kl_horizon_steps=before))
    ppo = changed_config(config, changes).ppo
    assert (ppo.kl_horizon, ppo.kl_horizon_steps) == (horizon, steps)


def test_completions_without_a_reward_count_in_no_mean() -> None:
    arms = [
        {"arm_name": "a", "full_text": "", "reward": 1.0, "rewards": {"mine": 1.0}},
        {"arm_name": "b", "full_text": "", "reward": None, "rewards": {"mine": None}},
        {"arm_name": "c", "full_text": "", "reward": 0.0, "rewards": {"mine": None}},
    ]
    row = RolloutRow.model_validate({"question": "?", "gold_answer": "1", "arm_outputs": arms})
    rewards = Rewards(TrainConfig(), None)
    rewards.samples_of(row)
    assert rewards.take_means() == (1.0, 1.0)
    assert rewards.take_means() == (0.0, 0.0)
