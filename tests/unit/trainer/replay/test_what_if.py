"""Settings that are changed for a replay."""

import math

from trainer.config.sections import TrainConfig
from trainer.replay.what_if import Rewards
from trainer.rollouts.rows import RolloutRow


def test_completions_without_a_reward_count_in_no_mean() -> None:
    arms = [
        {"arm_name": "a", "full_text": "", "reward": 1.0},
        {"arm_name": "b", "full_text": "", "reward": None},
    ]
    row = RolloutRow.model_validate({"question": "?", "gold_answer": "1", "arm_outputs": arms})
    rewards = Rewards(TrainConfig(), None)
    rewards.samples_of(row)
    assert rewards.take_means() == (1.0, 1.0)
    assert all(map(math.isnan, rewards.take_means()))
