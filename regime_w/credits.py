"""Credit: what each arm of a scored group earns, by the schemes of ``RewardConfig.credit``.

A scheme maps the read arms, their scores and the constants to one `RewardParts` per arm.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from regime_w.config import Credit, RewardConfig
from regime_w.group import GroupScores, ReadArm, score_arms
from regime_w.scores import s_wm_for_question


@dataclass(frozen=True, slots=True)
class RewardParts:
    """The terms of a reward."""

    base: float
    """For a right or wrong answer."""
    coherence: float
    """For agreement with the others, the path and the cross-check."""
    length: float
    """Penalty for words beyond the free ones; never positive, except in a difference of groups."""

    @property
    def total(self) -> float:
        """The reward."""
        return self.base + self.coherence + self.length


def arm_parts(
    arms: Sequence[ReadArm], scores: GroupScores, config: RewardConfig
) -> tuple[RewardParts, ...]:
    """``per_arm``: each arm's own reward; see `regime_w.arm_rewards`."""
    counts = Counter(scores.answers)
    num_others = len(arms) - 1
    parts = []
    for index, arm in enumerate(arms):
        base, bonus = config.wrong_base, 0.0
        if arm.is_correct:
            # A lone arm agrees with itself in the recipe; otherwise the score abstains.
            agree = (counts[arm.answer] - 1) / num_others if num_others else scores.s_end
            path = scores.s_path if scores.arm_paths is None else scores.arm_paths[index]
            coherence = s_wm_for_question(agree, path, scores.s_cf, **config.score_weights)
            base, bonus = config.correct_bonus, config.coherence_weight * (coherence or 0.0)
        parts.append(RewardParts(base, bonus, -_length_penalty(arm.num_words, config)))
    return tuple(parts)


def group_parts(arms: Sequence[ReadArm], scores: GroupScores, config: RewardConfig) -> RewardParts:
    """The group's scalar reward; see `regime_w.compute_reward`."""
    mean_words = sum(arm.num_words for arm in arms) / max(1, len(arms))
    return RewardParts(
        config.correct_bonus if any(scores.correct or ()) else config.wrong_base,
        config.coherence_weight * (scores.s_wm or 0.0),
        -_length_penalty(mean_words, config),
    )


def _length_penalty(num_words: float, config: RewardConfig) -> float:
    return config.length_penalty_per_word * max(0.0, num_words - config.free_words)


def shared_parts(
    arms: Sequence[ReadArm], scores: GroupScores, config: RewardConfig
) -> tuple[RewardParts, ...]:
    """``shared``: the group's scalar reward for every arm."""
    return (group_parts(arms, scores, config),) * len(arms)


def difference_parts(
    arms: Sequence[ReadArm], scores: GroupScores, config: RewardConfig
) -> tuple[RewardParts, ...]:
    r"""``difference``: ``G(N) - G(N \ i)`` of arm i; see `regime_w.arm_rewards`."""
    whole = _sum(arm_parts(arms, scores, config))
    return tuple(_less(whole, _sum_without(index, arms, config)) for index in range(len(arms)))


def _sum_without(index: int, arms: Sequence[ReadArm], config: RewardConfig) -> RewardParts:
    others = [*arms[:index], *arms[index + 1 :]]
    return _sum(arm_parts(others, score_arms(others, config.formulas, config), config))


def _sum(parts: Sequence[RewardParts]) -> RewardParts:
    return RewardParts(
        sum(part.base for part in parts),
        sum(part.coherence for part in parts),
        sum(part.length for part in parts),
    )


def _less(whole: RewardParts, rest: RewardParts) -> RewardParts:
    return RewardParts(
        whole.base - rest.base, whole.coherence - rest.coherence, whole.length - rest.length
    )


CREDITS: Mapping[
    Credit, Callable[[Sequence[ReadArm], GroupScores, RewardConfig], tuple[RewardParts, ...]]
] = {"per_arm": arm_parts, "shared": shared_parts, "difference": difference_parts}
"""What each arm of a group earns, in the order of the arms, by ``RewardConfig.credit``."""
