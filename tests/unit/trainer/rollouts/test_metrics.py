"""What a step's line says about its rollouts, computed by hand."""

import statistics
from dataclasses import replace

import pytest

from inference_server.wire.schemas import ArmCompletion, ArmGroup, FinishReason
from regime_w import RewardConfig
from regime_w.counterfactual.pairs import PairedQuestion
from trainer.config.rollout import REGIME_W
from trainer.data.sources import Record
from trainer.rollouts.groups import RolloutBatch, ScoredGroup, score_group, with_functions
from trainer.rollouts.metrics import rollout_metrics

RECORD = Record(id="q", question="3 + 4?", gold="#### 7")
RIGHT, WRONG = "3 + 4 = 7\n#### 7", "3 + 4 = 8\n#### 8"


def scored(*texts: str, config: RewardConfig) -> ScoredGroup:
    names = ("wolfram_0", "wolfram_1", "maudlin_0", "maudlin_1")
    arms = [
        ArmCompletion(
            arm=name,
            sample=0,
            text=text,
            finish_reason=FinishReason.STOP,
            temperature=0.2,
            top_p=0.9,
            seed=None,
            prompt_token_ids=[1],
            token_ids=[2, 3],
            logprobs=[-0.1, -0.2],
        )
        for name, text in zip(names, texts, strict=False)
    ]
    group = ArmGroup(id="q", question=RECORD.question, policy_version=1, arms=arms)
    return score_group(RECORD, group, config)


def metrics_of(*groups: ScoredGroup, replaced: tuple[ScoredGroup, ...] = ()) -> dict[str, float]:
    return rollout_metrics(
        RolloutBatch(
            groups=groups,
            replaced=replaced,
            version=1,
            generate_s=1.0,
            score_s=0.1,
            num_dropped_groups=0,
        )
    )


def test_parts_of_the_reward_sum_to_its_mean_and_arms_have_their_own_accuracy() -> None:
    config = RewardConfig(free_words=3)
    found = metrics_of(
        scored(RIGHT, WRONG, RIGHT, RIGHT, config=config),
        scored(WRONG, WRONG, RIGHT, WRONG, config=config),
    )
    assert found["reward/base"] == pytest.approx((4 * 1.0 - 4 * 0.5) / 8)
    # Seven words each, four over three.
    assert found["reward/length"] == pytest.approx(-0.004)
    assert found["reward/coherence"] > 0
    parts = ("base", "coherence", "length")
    assert sum(found[f"reward/{part}"] for part in parts) == pytest.approx(found["reward/mean"])
    assert {name: value for name, value in found.items() if name.startswith("arm_correct/")} == {
        "arm_correct/wolfram_0": 0.5,
        "arm_correct/wolfram_1": 0.0,
        "arm_correct/maudlin_0": 1.0,
        "arm_correct/maudlin_1": 0.5,
    }


def test_the_reward_follows_correctness_within_groups() -> None:
    # Without coherence and length the reward is a straight line of correctness.
    plain = RewardConfig(coherence_weight=0.0)
    found = metrics_of(
        scored(RIGHT, WRONG, RIGHT, RIGHT, config=plain),
        scored(WRONG, WRONG, WRONG, WRONG, config=plain),
    )
    assert found["reward/follows_correct"] == pytest.approx(1.0)
    inverted = plain.model_copy(update={"correct_bonus": -1.0})
    assert metrics_of(scored(RIGHT, WRONG, config=inverted))[
        "reward/follows_correct"
    ] == pytest.approx(-1.0)


def test_under_shared_credit_the_reward_follows_correctness_between_groups() -> None:
    shared = RewardConfig(credit="shared", coherence_weight=0.0)
    # Rewards 1, 1 and −0.5; shares correct 1/4, 3/4 and 0.
    found = metrics_of(
        scored(RIGHT, WRONG, WRONG, WRONG, config=shared),
        scored(RIGHT, RIGHT, RIGHT, WRONG, config=shared),
        scored(WRONG, WRONG, WRONG, WRONG, config=shared),
    )
    expected = statistics.correlation([1.0, 1.0, -0.5], [0.25, 0.75, 0.0])
    assert found["reward/follows_correct"] == pytest.approx(expected)


def test_completions_without_a_reward_count_in_no_mean_of_it() -> None:
    config = RewardConfig()
    group, weights = scored(RIGHT, WRONG, WRONG, WRONG, config=config), {"mine": 1.0}
    # Below 0, which stands where there is none.
    given = with_functions(group, {"mine": [-0.2, -1.0, None, None]}, weights, config)
    nothing = with_functions(group, {"mine": [None] * 4}, weights, config)
    for found in (metrics_of(given), metrics_of(given, nothing)):
        assert found["reward/mean"] == pytest.approx(-0.6)
        assert found["reward/follows_correct"] == pytest.approx(1.0)
    assert "reward/follows_correct" not in metrics_of(nothing)
    weighted = with_functions(
        group, {"mine": [1.0, None, None, None]}, {"mine": 1.0, REGIME_W: 1.0}, config
    )
    assert metrics_of(weighted)["reward/base"] == group.parts[0].base


@pytest.mark.parametrize("texts", [(RIGHT, RIGHT), (WRONG, WRONG)])
def test_a_group_without_differences_says_nothing_of_it(texts: tuple[str, str]) -> None:
    assert "reward/follows_correct" not in metrics_of(scored(*texts, config=RewardConfig()))


def test_without_golds_there_is_no_accuracy_by_arm() -> None:
    config = RewardConfig()
    group = scored(RIGHT, WRONG, config=config)
    unjudged = score_group(Record(id="q", question="?", gold="unknown"), group.group, config)
    names = metrics_of(unjudged)
    assert not any(name.startswith("arm_correct/") for name in names)
    assert "reward/follows_correct" not in names


def test_groups_that_are_right_or_wrong_in_every_arm_are_counted_apart() -> None:
    config = RewardConfig()
    found = metrics_of(
        scored(RIGHT, RIGHT, config=config),
        scored(WRONG, WRONG, config=config),
        scored(WRONG, WRONG, config=config),
        scored(RIGHT, WRONG, config=config),
    )
    assert found["rollout/all_correct_groups"] == 1 / 4
    assert found["rollout/all_wrong_groups"] == 2 / 4
    assert found["reward/any_correct"] == 2 / 4


def test_ways_to_the_answer_are_counted_in_each_group() -> None:
    config = RewardConfig()
    twice_the_same = scored(RIGHT, RIGHT, config=config)
    wrong = scored(WRONG, WRONG, config=config)
    assert metrics_of(twice_the_same, wrong)["scores/correct_paths"] == 1 / 2
    # What dynamic sampling replaced does not train, and counts only in what is measured of all questions.
    found = metrics_of(twice_the_same, replaced=(wrong, wrong))
    assert found["scores/correct_paths"] == 1
    assert found["reward/any_correct"] == 1 / 3


def test_completions_right_on_a_question_and_on_its_counterfactual_are_counted_once() -> None:
    other = PairedQuestion(
        id="o", question="3 + 5?", gold_answer="#### 8", answers=("8", "8", "7", None)
    )
    group = scored(RIGHT, WRONG, RIGHT, RIGHT, config=RewardConfig()).group
    first = score_group(RECORD, group, RewardConfig(), other)
    counterfactual = replace(first, record=replace(RECORD, id="q~", counterfactual_of="q"))
    alone = scored(RIGHT, RIGHT, RIGHT, RIGHT, config=RewardConfig())
    assert metrics_of(first, counterfactual, alone)["scores/correct_on_both"] == 1 / 4
    assert "scores/correct_on_both" not in metrics_of(alone)
