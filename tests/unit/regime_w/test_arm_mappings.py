"""Arm outputs as mappings, as the recipe passes them: scored like `ArmOutput`, checked at the door."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from regime_w import (
    ArmOutput,
    Counterfactual,
    CounterfactualGroup,
    RewardConfig,
    arm_rewards,
    compute_regime_w_scores,
    compute_reward,
    reward_group,
    s_cf_for_question,
)
from regime_w.arms import read_arm_outputs

QUESTION = "What is 3 + 4?"
GOLD = "#### 7"
MAPPINGS = [
    {
        "arm_name": "wolfram_0",
        "full_text": "3 + 4 = 7\n#### 7",
        "reasoning": "3 + 4 = 7",
        "answer": "#### 7",
    },
    {
        "arm_name": "maudlin_0",
        "full_text": "Start with 3 apples, add 5.\n#### 8",
        "reasoning": "Start with 3 apples, add 5.",
        "answer": "8",
    },
]
OUTPUTS = [ArmOutput(**mapping) for mapping in MAPPINGS]
CALLS: dict[str, Callable[[Any], object]] = {
    "compute_regime_w_scores": lambda arms: compute_regime_w_scores(QUESTION, arms, GOLD),
    "compute_reward": lambda arms: compute_reward(QUESTION, arms, GOLD),
    "arm_rewards": lambda arms: arm_rewards(QUESTION, arms, GOLD),
    "reward_group": lambda arms: reward_group(arms, GOLD),
    "s_cf_for_question": s_cf_for_question,
}


@pytest.mark.parametrize("name", CALLS)
def test_mappings_score_like_arm_outputs(name: str) -> None:
    expected = CALLS[name](OUTPUTS)
    assert CALLS[name](MAPPINGS) == expected
    assert CALLS[name]([OUTPUTS[0], MAPPINGS[1]]) == expected


def test_the_recipes_formulas_take_mappings() -> None:
    config = RewardConfig(formulas="original", credit="shared")
    reward = compute_reward(QUESTION, MAPPINGS, GOLD, config=config)
    assert reward == compute_reward(QUESTION, OUTPUTS, GOLD, config=config)
    assert arm_rewards(QUESTION, MAPPINGS, GOLD, config=config) == (reward, reward)


def test_a_counterfactual_group_takes_mappings() -> None:
    pair = Counterfactual(question="What is 3 + 5?", gold="8", offset="1", change=("4", "5"))
    scores = [
        compute_regime_w_scores(
            QUESTION,
            MAPPINGS,
            GOLD,
            counterfactual=CounterfactualGroup(counterfactual=pair, arm_outputs=arms),
        )
        for arms in (MAPPINGS, OUTPUTS)
    ]
    assert scores[0] == scores[1]


def test_other_keys_are_ignored_and_the_name_may_be_missing() -> None:
    unnamed = {key: value for key, value in MAPPINGS[0].items() if key != "arm_name"}
    (output,) = read_arm_outputs([{**unnamed, "temperature": 0.2}])
    assert asdict(output) == {**MAPPINGS[0], "arm_name": "arm"}
    assert compute_reward(QUESTION, [unnamed] * 2, GOLD) > 1
    (silent,) = read_arm_outputs([{**unnamed, "answer": None}])
    assert silent.answer is None


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({**MAPPINGS[1], "answer": 7}, r"^arm_outputs\[1\]\.answer: .*string"),
        ({**MAPPINGS[1], "full_text": None}, r"^arm_outputs\[1\]\.full_text: .*string"),
        ({"full_text": "#### 7", "answer": "7"}, r"^arm_outputs\[1\]\.reasoning: Field required$"),
        ("#### 7", r"^arm_outputs\[1\]: must be an ArmOutput or a mapping, not str$"),
    ],
)
def test_an_invalid_output_is_named(name: str, invalid: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CALLS[name]([MAPPINGS[0], invalid])


def test_scores_are_read_by_name_as_the_recipe_reads_them() -> None:
    scores = compute_regime_w_scores(QUESTION, MAPPINGS, GOLD)
    assert [scores[name] for name in ("s_end", "s_path", "s_cf", "s_wm")] == [
        *(scores.s_end, scores.s_path, scores.s_cf, scores.s_wm)
    ]
    assert scores["correct_flags"] == [True, False]
    assert compute_regime_w_scores(QUESTION, MAPPINGS)["correct_flags"] == []
    # They are no sequence, for all that.
    with pytest.raises(TypeError):
        list(scores)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        "s_wm" in scores  # type: ignore[operator]  # noqa: B015
    for name in ("s_all", "__getitem__"):
        with pytest.raises(KeyError, match=name):
            scores[name]
