"""Settings that are changed for a replay."""

import math

import pytest

from trainer.config.sections import TrainConfig
from trainer.replay.what_if import Rewards, _mean_line
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


@pytest.mark.parametrize(
    ("recorded", "changed", "said"),
    [
        ([1.0, 3.0], [2.0, 4.0], "mean of 2 reward 3 (2)"),
        ([1.0, math.nan, 3.0], [2.0, 9.0, 4.0], "mean of 2 of 3 reward 3 (2)"),
        ([math.nan, math.nan], [2.0, 4.0], "mean of 2 reward 3 (none)"),
        ([1.0, 3.0], [math.nan, math.nan], "no step has a reward"),
    ],
)
def test_means_are_over_the_steps_that_both_have(
    recorded: list[float], changed: list[float], said: str
) -> None:
    rows = ([{"reward": value} for value in values] for values in (recorded, changed))
    assert _mean_line(*rows) == said
