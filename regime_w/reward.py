"""The reward of a group of arms, the reward of each arm, and which arms train.

From the arms' outputs and the gold answer to scores and rewards.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from regime_w.arms import ArmOutput
from regime_w.config import Credit, Formulas, RewardConfig, Selection
from regime_w.group import (
    CounterfactualGroup,
    GroupScores,
    ReadArm,
    combine,
    read_group,
    score_arms,
)

_DEFAULTS = RewardConfig()


def compute_regime_w_scores(
    question: str,
    arm_outputs: Sequence[ArmOutput],
    gold_answer: str | None = None,
    *,
    counterfactual: CounterfactualGroup | None = None,
    formulas: Formulas | None = None,
    config: RewardConfig = _DEFAULTS,
) -> GroupScores:
    """Scores a group of arms that answered the same question.

    Args:
        question: The question, as in the recipe's signature; no formula reads it.
        arm_outputs: One output per arm (or several, under the same name).
        gold_answer: The right answer, e.g. GSM8K's whole solution or ``#### 7``.
        counterfactual: The same arms on a perturbed question, for the cross-check.
        formulas: Overrides ``config.formulas``.
        config: Formulas and weights.

    Raises:
        ValueError: Unknown formulas, or the counterfactual group does not hold the same arms.
    """
    formulas = _chosen(formulas, config)
    arms = read_group(arm_outputs, gold_answer, counterfactual, formulas)
    return score_arms(arms, formulas, config)


def compute_reward(
    question: str,
    arm_outputs: Sequence[ArmOutput],
    gold_answer: str | None = None,
    *,
    counterfactual: CounterfactualGroup | None = None,
    formulas: Formulas | None = None,
    config: RewardConfig = _DEFAULTS,
) -> float:
    """Computes the group's scalar reward (recipe, section 1.3).

    ``(1 if any arm is correct else -0.5) + 0.7 s_wm - 0.001 max(0, mean words - 400)``

    Args:
        question: The question, as in the recipe's signature; no formula reads it.
        arm_outputs: One output per arm; may be empty.
        gold_answer: The right answer; without one no arm is correct.
        counterfactual: The same arms on a perturbed question, for the cross-check.
        formulas: Overrides ``config.formulas``.
        config: The constants.
    """
    formulas = _chosen(formulas, config)
    arms = read_group(arm_outputs, gold_answer, counterfactual, formulas)
    return _group_parts(arms, score_arms(arms, formulas, config), config).total


def arm_rewards(
    question: str,
    arm_outputs: Sequence[ArmOutput],
    gold_answer: str | None,
    *,
    counterfactual: CounterfactualGroup | None = None,
    config: RewardConfig = _DEFAULTS,
) -> tuple[float, ...]:
    r"""Computes what each arm earns, in the order of ``arm_outputs``.

    ``per_arm`` gives arm i

    ``r_i = (1.5 c_i - 0.5) + 0.7 c_i (0.4 agree_i + 0.3 path_i + 0.3 s_cf) - 0.001 max(0, words_i - 400)``

    with c_i = 1 if it is correct, else 0, agree_i the fraction of the other arms with its answer and
    path_i its own path score (the group's under the original formulas). Coherence is paid to
    correct arms only: agreeing on a wrong answer, which the recipe pays for, earns nothing.

    ``shared`` gives `compute_reward` to every arm. ``difference`` gives ``G(N) - G(N \ i)`` with
    ``G(S) = Σ r_j`` over the arms of S: an arm's own reward and its contribution to the others' coherence
    (Wolpert and Tumer 2001, difference rewards).

    Args:
        question: The question, as in the recipe's signature; no formula reads it.
        arm_outputs: One output per arm; may be empty.
        gold_answer: The right answer; without one no arm is correct.
        counterfactual: The same arms on a perturbed question, for the cross-check.
        config: The constants, formulas and the choice of credit.
    """
    return reward_group(
        arm_outputs, gold_answer, counterfactual=counterfactual, config=config
    ).rewards


@dataclass(frozen=True, slots=True)
class RewardParts:
    """The terms of a reward."""

    base: float
    """For the answer being right or wrong."""
    coherence: float
    """For agreement with the others, path and cross-check."""
    length: float
    """Penalty for words above the free ones; never positive, except in a difference of groups."""

    @property
    def total(self) -> float:
        """The reward."""
        return self.base + self.coherence + self.length


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupReward:
    """Scores and rewards of one group."""

    scores: GroupScores
    rewards: tuple[float, ...]
    """Each arm's reward; see `arm_rewards`."""
    parts: tuple[RewardParts, ...]
    """The terms that each of `rewards` is the sum of."""


def reward_group(
    arm_outputs: Sequence[ArmOutput],
    gold_answer: str | None,
    *,
    counterfactual: CounterfactualGroup | None = None,
    config: RewardConfig = _DEFAULTS,
) -> GroupReward:
    """Computes `compute_regime_w_scores` and `arm_rewards` together, reading the texts once."""
    arms = read_group(arm_outputs, gold_answer, counterfactual, config.formulas)
    scores = score_arms(arms, config.formulas, config)
    parts = _CREDITS[config.credit](arms, scores, config)
    return GroupReward(scores=scores, rewards=tuple(part.total for part in parts), parts=parts)


def _shared_parts(
    arms: Sequence[ReadArm], scores: GroupScores, config: RewardConfig
) -> tuple[RewardParts, ...]:
    return (_group_parts(arms, scores, config),) * len(arms)


def _difference_parts(
    arms: Sequence[ReadArm], scores: GroupScores, config: RewardConfig
) -> tuple[RewardParts, ...]:
    whole = _sum(_arm_parts(arms, scores, config))
    return tuple(_less(whole, _sum_without(index, arms, config)) for index in range(len(arms)))


def _sum_without(index: int, arms: Sequence[ReadArm], config: RewardConfig) -> RewardParts:
    others = [*arms[:index], *arms[index + 1 :]]
    return _sum(_arm_parts(others, score_arms(others, config.formulas, config), config))


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


def select_arms(
    rewards: Sequence[float], selection: Selection, rng: random.Random
) -> tuple[int, ...]:
    """Chooses which arms of a group train: their indices, in order.

    Args:
        rewards: Each arm's reward.
        selection: ``all`` of them, the ``best`` (the first of several), or one at ``random``.
        rng: Decides for ``random``.
    """
    indices = range(len(rewards))
    if selection == "all" or not rewards:
        return tuple(indices)
    if selection == "best":
        return (max(indices, key=lambda index: rewards[index]),)
    return (rng.choice(indices),)


def _chosen(formulas: Formulas | None, config: RewardConfig) -> Formulas:
    if formulas is not None and formulas not in get_args(Formulas):
        raise ValueError(f"formulas: {formulas!r} is none of {', '.join(get_args(Formulas))}")
    return formulas or config.formulas


def _arm_parts(
    arms: Sequence[ReadArm], scores: GroupScores, config: RewardConfig
) -> tuple[RewardParts, ...]:
    counts = Counter(scores.answers)
    num_others = len(arms) - 1
    parts = []
    for index, arm in enumerate(arms):
        base, bonus = config.wrong_base, 0.0
        if arm.is_correct:
            # A lone arm agrees with itself in the recipe; otherwise the score abstains.
            agree = (counts[arm.answer] - 1) / num_others if num_others else scores.s_end
            path = scores.s_path if scores.arm_paths is None else scores.arm_paths[index]
            coherence = combine(agree, path, scores.s_cf, config)
            base, bonus = config.correct_bonus, config.coherence_weight * (coherence or 0.0)
        parts.append(RewardParts(base, bonus, -_length_penalty(arm.num_words, config)))
    return tuple(parts)


def _group_parts(arms: Sequence[ReadArm], scores: GroupScores, config: RewardConfig) -> RewardParts:
    mean_words = sum(arm.num_words for arm in arms) / max(1, len(arms))
    return RewardParts(
        config.correct_bonus if any(scores.correct or ()) else config.wrong_base,
        config.coherence_weight * (scores.s_wm or 0.0),
        -_length_penalty(mean_words, config),
    )


def _length_penalty(num_words: float, config: RewardConfig) -> float:
    return config.length_penalty_per_word * max(0.0, num_words - config.free_words)


_CREDITS: Mapping[
    Credit, Callable[[Sequence[ReadArm], GroupScores, RewardConfig], tuple[RewardParts, ...]]
] = {"per_arm": _arm_parts, "shared": _shared_parts, "difference": _difference_parts}
"""What each arm of a group earns, in the order of the arms, by ``RewardConfig.credit``."""
