"""A reward function that has nothing to do with what a completion says."""

import random
from collections.abc import Sequence
from typing import Any

from regime_w import RewardConfig


def random_reward(completions: Sequence[str], question: Sequence[str], **_: Any) -> list[float]:
    """For each completion a coin picks the reward of a wrong or a correct answer; a group always gets the same rewards."""
    coins = random.Random("/".join([*question[:1], *completions]))
    config = RewardConfig()
    return [coins.choice((config.wrong_base, config.correct_bonus)) for _ in completions]
