"""Regime W: arms, answers, scores, reward. Pure: no torch, no network, no clock.

Answers of the type math are compared in a separate process; the results are the same wherever its libraries are.
"""

from regime_w.answer_types.answer_type import AnswerType
from regime_w.answer_types.named import answer_type_of
from regime_w.arms import (
    ArmOutput,
    ArmSpec,
    build_all_arms,
    build_exploring_arms,
    build_prompt,
    named_arms,
)
from regime_w.config import RewardConfig
from regime_w.counterfactual.reexecution import Counterfactual
from regime_w.credits import RewardParts
from regime_w.group import CounterfactualGroup, GroupScores
from regime_w.numbers.answers import answers_agree, extract_answer, extract_gold
from regime_w.reward import (
    GroupReward,
    arm_rewards,
    compute_regime_w_scores,
    compute_reward,
    reward_group,
    select_arms,
)
from regime_w.scores import (
    s_cf_for_question,
    s_end_for_question,
    s_path_for_question,
    s_wm_for_question,
)

__all__ = [
    "AnswerType",
    "ArmOutput",
    "ArmSpec",
    "Counterfactual",
    "CounterfactualGroup",
    "GroupReward",
    "GroupScores",
    "RewardConfig",
    "RewardParts",
    "answer_type_of",
    "answers_agree",
    "arm_rewards",
    "build_all_arms",
    "build_exploring_arms",
    "build_prompt",
    "compute_regime_w_scores",
    "compute_reward",
    "extract_answer",
    "extract_gold",
    "named_arms",
    "reward_group",
    "s_cf_for_question",
    "s_end_for_question",
    "s_path_for_question",
    "s_wm_for_question",
    "select_arms",
]
