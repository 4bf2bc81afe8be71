"""The factor on the learning rates, step by step."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.sections import PPOConfig
from trainer.ppo.learner import learning_rate_scale


def scales(schedule: Literal["constant", "linear"], num_warmup: int, num_steps: int) -> list[float]:
    config = PPOConfig(learning_rate_schedule=schedule, learning_rate_warmup_steps=num_warmup)
    return [
        learning_rate_scale(config, step, num_steps=num_steps) for step in range(1, num_steps + 1)
    ]


@pytest.mark.parametrize(
    ("schedule", "num_warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("constant", 1, [1, 1, 1, 1, 1]),
        ("constant", 4, [1 / 4, 2 / 4, 3 / 4, 1, 1]),
        ("constant", 10, [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("linear", 0, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        ("linear", 1, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        ("linear", 2, [1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("linear", 4, [1 / 4, 2 / 4, 3 / 4, 1, 1 / 2]),
        ("linear", 5, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1]),
        ("linear", 10, [0.1, 0.2, 0.3, 0.4, 0.5]),
    ],
)
def test_rates_rise_over_the_warm_up_and_then_follow_the_schedule(
    schedule: Literal["constant", "linear"], num_warmup: int, expected: list[float]
) -> None:
    assert scales(schedule, num_warmup, 5) == pytest.approx(expected, abs=1e-12)


@given(num_warmup=st.integers(0, 40), num_steps=st.integers(1, 40))
def test_every_step_has_a_rate_and_none_is_above_the_setting(
    num_warmup: int, num_steps: int
) -> None:
    for schedule in ("constant", "linear"):
        found = scales(schedule, num_warmup, num_steps)
        assert all(0 < scale <= 1 for scale in found)
        top = found.index(max(found))
        assert found[:top] == sorted(found[:top])
        assert found[top:] == sorted(found[top:], reverse=True)
