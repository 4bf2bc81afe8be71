"""Settings that are changed for a replay."""

import pytest

from trainer.config.sections import PPOConfig, TrainConfig
from trainer.replay.changed_settings import changed_config


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
