"""The reward of a group of arms, and the share of it that each arm earns.

Enters: what the arms answered and the gold answer. Leaves: scores and rewards, plain numbers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from regime_w.answers import answers_agree, extract_answer
from regime_w.arms import ArmOutput
from regime_w.scores import (
    s_cf_for_question,
    s_end_for_question,
    s_path_for_question,
    s_wm_for_question,
)


class RewardConfig(BaseModel):
    """Every constant of the reward; the defaults are the recipe's."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    formulas: Literal["original"] = "original"
    """Which set of score formulas: ``original`` is the recipe's, to the letter."""
    credit: Literal["per_arm", "shared"] = "per_arm"
    """What an arm earns: by its own answer, or the group's scalar (the recipe)."""
    correct_bonus: float = 1.0
    """Base reward where the answer is correct."""
    wrong_base: float = -0.5
    """Base reward where it is wrong, missing, or cannot be judged."""
    coherence_weight: float = Field(default=0.7, ge=0)
    """Weight of coherence beside the base reward."""
    w_end: float = Field(default=0.4, ge=0, le=1)
    """Weight of answer agreement within coherence; the three weights sum to 1."""
    w_path: float = Field(default=0.3, ge=0, le=1)
    """Weight of path coherence within coherence."""
    w_cf: float = Field(default=0.3, ge=0, le=1)
    """Weight of the counterfactual cross-check within coherence."""
    length_penalty_per_word: float = Field(default=0.001, ge=0)
    """Taken off for each generated word over `free_words`."""
    free_words: int = Field(default=400, ge=0)
    """Generated words that cost nothing."""

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> Self:
        total = self.w_end + self.w_path + self.w_cf
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"w_end + w_path + w_cf must be 1, not {total}")
        return self


_DEFAULTS = RewardConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupScores:
    """Scores of one group; a score is None where it abstains."""

    s_end: float | None
    s_path: float | None
    s_cf: float | None
    s_wm: float | None
    answers: tuple[str | None, ...]
    """Canonical answer of each arm, None where it gave none."""
    correct: tuple[bool, ...] | None
    """Whether each arm is correct; None without a gold answer that can be read."""


def compute_regime_w_scores(
    question: str,
    arm_outputs: Sequence[ArmOutput],
    gold_answer: str | None = None,
    *,
    formulas: Literal["original"] | None = None,
    config: RewardConfig = _DEFAULTS,
) -> GroupScores:
    """Scores a group of arms that answered the same question.

    Args:
        question: The question; the original formulas do not read it.
        arm_outputs: One output per arm.
        gold_answer: The right answer, e.g. GSM8K's whole solution or ``#### 7``.
        formulas: Overrides ``config.formulas``.
        config: Weights of the scores.
    """
    chosen = config.formulas if formulas is None else formulas
    if chosen != "original":
        raise ValueError(f"unknown formulas {chosen!r}: must be 'original'")
    answers = tuple(
        None if output.answer is None else extract_answer(output.answer) for output in arm_outputs
    )
    s_end = s_end_for_question(answers)
    s_path = s_path_for_question([output.reasoning for output in arm_outputs])
    s_cf = s_cf_for_question(arm_outputs)
    gold = None if gold_answer is None else extract_answer(gold_answer)
    return GroupScores(
        s_end=s_end,
        s_path=s_path,
        s_cf=s_cf,
        s_wm=_combine(s_end, s_path, s_cf, config),
        answers=answers,
        correct=None if gold is None else tuple(answers_agree(a, gold) for a in answers),
    )


def compute_reward(
    question: str,
    arm_outputs: Sequence[ArmOutput],
    gold_answer: str | None = None,
    *,
    formulas: Literal["original"] | None = None,
    config: RewardConfig = _DEFAULTS,
) -> float:
    """Computes the group's scalar reward (recipe, section 1.3).

    ``(1 if any arm is correct else -0.5) + 0.7 s_wm - 0.001 max(0, mean words - 400)``

    Args:
        question: The question; the original formulas do not read it.
        arm_outputs: One output per arm; may be empty.
        gold_answer: The right answer; without one no arm is correct.
        formulas: Overrides ``config.formulas``.
        config: The constants.
    """
    scores = compute_regime_w_scores(
        question, arm_outputs, gold_answer, formulas=formulas, config=config
    )
    return _group_reward(arm_outputs, scores, config)


def arm_rewards(
    question: str,
    arm_outputs: Sequence[ArmOutput],
    gold_answer: str | None,
    *,
    config: RewardConfig = _DEFAULTS,
) -> tuple[float, ...]:
    """Computes what each arm earns, in the order of ``arm_outputs``.

    ``shared`` gives `compute_reward` to every arm. ``per_arm`` gives arm i

    ``(1.5 c_i - 0.5) + 0.7 c_i (0.4 agree_i + 0.3 s_path + 0.3 s_cf) - 0.001 max(0, words_i - 400)``

    with c_i = 1 if it is correct, else 0, and agree_i the share of the other arms with its answer
    (1 without others). Coherence is paid to correct arms only: agreeing on a wrong answer, which
    the recipe pays for, earns nothing.

    Args:
        question: The question; the original formulas do not read it.
        arm_outputs: One output per arm; may be empty.
        gold_answer: The right answer; without one no arm is correct.
        config: The constants, and the choice of credit.
    """
    scores = compute_regime_w_scores(question, arm_outputs, gold_answer, config=config)
    if config.credit == "shared":
        return (_group_reward(arm_outputs, scores, config),) * len(arm_outputs)
    correct = scores.correct or (False,) * len(arm_outputs)
    counts = Counter(scores.answers)
    num_others = len(arm_outputs) - 1
    rewards = []
    for output, answer, is_correct in zip(arm_outputs, scores.answers, correct, strict=True):
        reward = config.wrong_base
        if is_correct:
            agree = (counts[answer] - 1) / num_others if num_others else 1.0
            coherence = _combine(agree, scores.s_path, scores.s_cf, config)
            reward = config.correct_bonus + config.coherence_weight * (coherence or 0.0)
        rewards.append(reward - _length_penalty(_num_words(output), config))
    return tuple(rewards)


def _group_reward(
    arm_outputs: Sequence[ArmOutput], scores: GroupScores, config: RewardConfig
) -> float:
    base = config.correct_bonus if any(scores.correct or ()) else config.wrong_base
    mean_words = sum(map(_num_words, arm_outputs)) / max(1, len(arm_outputs))
    bonus = config.coherence_weight * (scores.s_wm or 0.0)
    return base + bonus - _length_penalty(mean_words, config)


def _combine(
    s_end: float | None, s_path: float | None, s_cf: float | None, config: RewardConfig
) -> float | None:
    return s_wm_for_question(
        s_end, s_path, s_cf, w_end=config.w_end, w_path=config.w_path, w_cf=config.w_cf
    )


def _num_words(output: ArmOutput) -> int:
    return len(output.full_text.split())


def _length_penalty(num_words: float, config: RewardConfig) -> float:
    return config.length_penalty_per_word * max(0.0, num_words - config.free_words)
