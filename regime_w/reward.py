"""Computes the reward of a group of arms and of each arm, and chooses which arms are trained on.

From the arms' outputs and the gold answer to scores and rewards.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from regime_w.answer_types.answer_type import AnswerType
from regime_w.answer_types.number import NUMBER
from regime_w.arms import ArmOutput
from regime_w.config import Formulas, RewardConfig, Selection
from regime_w.credits import CREDITS, RewardParts, group_parts
from regime_w.group import CounterfactualGroup, GroupScores, read_group, score_arms

_DEFAULTS = RewardConfig()


def compute_regime_w_scores(
    question: str,
    arm_outputs: Sequence[ArmOutput | Mapping[str, object]],
    gold_answer: str | None = None,
    *,
    counterfactual: CounterfactualGroup | None = None,
    formulas: Formulas | None = None,
    config: RewardConfig = _DEFAULTS,
    answer_type: AnswerType = NUMBER,
) -> GroupScores:
    """Scores a group of arms that answered the same question.

    Args:
        question: The question, as in the recipe's signature; no formula reads it.
        arm_outputs: One output per arm (or several, under the same name), `ArmOutput` or a mapping
            with its keys.
        gold_answer: The right answer, e.g. GSM8K's whole solution, ``#### 7`` or ``7``; see
            `regime_w.extract_gold`.
        counterfactual: The same arms on a perturbed question, for the cross-check.
        formulas: Overrides ``config.formulas``.
        config: Formulas and weights.
        answer_type: The answer type of the question.

    Raises:
        ValueError: Unknown formulas, an invalid arm output, or the counterfactual group does not
            hold the same arms.
    """
    formulas = _chosen(formulas, config)
    arms = read_group(arm_outputs, gold_answer, counterfactual, formulas, answer_type)
    return score_arms(arms, formulas, config)


def compute_reward(
    question: str,
    arm_outputs: Sequence[ArmOutput | Mapping[str, object]],
    gold_answer: str | None = None,
    *,
    counterfactual: CounterfactualGroup | None = None,
    formulas: Formulas | None = None,
    config: RewardConfig = _DEFAULTS,
    answer_type: AnswerType = NUMBER,
) -> float:
    """Computes the group's scalar reward (recipe, section 1.3).

    ``(1 if any arm is correct else -0.5) + 0.7 s_wm - 0.001 max(0, mean words - 400)``

    Args:
        question: The question, as in the recipe's signature; no formula reads it.
        arm_outputs: One output per arm, `ArmOutput` or a mapping with its keys; may be empty.
        gold_answer: The right answer; without one no arm is correct.
        counterfactual: The same arms on a perturbed question, for the cross-check.
        formulas: Overrides ``config.formulas``.
        config: The constants.
        answer_type: The answer type of the question.
    """
    formulas = _chosen(formulas, config)
    arms = read_group(arm_outputs, gold_answer, counterfactual, formulas, answer_type)
    return group_parts(arms, score_arms(arms, formulas, config), config).total


def arm_rewards(
    question: str,
    arm_outputs: Sequence[ArmOutput | Mapping[str, object]],
    gold_answer: str | None,
    *,
    counterfactual: CounterfactualGroup | None = None,
    config: RewardConfig = _DEFAULTS,
    answer_type: AnswerType = NUMBER,
) -> tuple[float, ...]:
    r"""Computes what each arm earns, in the order of ``arm_outputs``.

    ``per_arm`` gives arm i

    ``r_i = (1.5 c_i - 0.5) + 0.7 c_i (0.4 agree_i + 0.3 path_i + 0.3 s_cf) - 0.001 max(0, words_i - 400)``

    with c_i = 1 if it is correct, else 0, agree_i the fraction of the other arms with its answer and
    path_i its own path score (the group's under the original formulas). Only correct arms are rewarded for
    coherence: agreeing on a wrong answer, which the recipe rewards, earns nothing.

    ``shared`` gives `compute_reward` to every arm. ``difference`` gives ``G(N) - G(N \ i)`` with
    ``G(S) = Σ r_j`` over the arms of S: an arm's own reward and its contribution to the others' coherence
    (Wolpert and Tumer 2001, difference rewards).

    Args:
        question: The question, as in the recipe's signature; no formula reads it.
        arm_outputs: One output per arm, `ArmOutput` or a mapping with its keys; may be empty.
        gold_answer: The right answer; without one no arm is correct.
        counterfactual: The same arms on a perturbed question, for the cross-check.
        config: The constants, the formulas and the credit scheme.
        answer_type: The answer type of the question.
    """
    return reward_group(
        arm_outputs,
        gold_answer,
        counterfactual=counterfactual,
        config=config,
        answer_type=answer_type,
    ).rewards


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupReward:
    """Scores and rewards of one group."""

    scores: GroupScores
    rewards: tuple[float, ...]
    """Each arm's reward; see `arm_rewards`."""
    parts: tuple[RewardParts, ...]
    """The terms of each reward, which is their sum."""


def reward_group(
    arm_outputs: Sequence[ArmOutput | Mapping[str, object]],
    gold_answer: str | None,
    *,
    counterfactual: CounterfactualGroup | None = None,
    config: RewardConfig = _DEFAULTS,
    answer_type: AnswerType = NUMBER,
) -> GroupReward:
    """Computes `compute_regime_w_scores` and `arm_rewards` together, reading the texts once."""
    arms = read_group(arm_outputs, gold_answer, counterfactual, config.formulas, answer_type)
    scores = score_arms(arms, config.formulas, config)
    parts = CREDITS[config.credit](arms, scores, config)
    return GroupReward(scores=scores, rewards=tuple(part.total for part in parts), parts=parts)


def select_arms(
    rewards: Sequence[float], selection: Selection, rng: random.Random
) -> tuple[int, ...]:
    """Chooses which arms of a group are trained on; returns their indices, in order.

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
