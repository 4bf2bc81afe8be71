"""The reward: the recipe to the letter, and what each arm earns."""

import random
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from regime_w import (
    ArmOutput,
    RewardConfig,
    arm_rewards,
    compute_regime_w_scores,
    compute_reward,
)

QUESTION = "What is 3 + 4?"
GOLD = "3 + 4 = <<3+4=7>>7\n#### 7"


def arm(answer: str | None, reasoning_words: int = 5, words: int = 10) -> ArmOutput:
    return ArmOutput(
        arm_name="wolfram_0",
        full_text="word " * words,
        reasoning="word " * reasoning_words,
        answer=answer,
    )


def recipe_reward(arms: Sequence[ArmOutput], gold: str | None) -> float:
    """The recipe's code on answers that are canonical already, in one piece."""
    n = len(arms)
    if n < 2:
        s_end = 1.0 if n == 1 else 0.0
    else:
        agree = total = 0
        for i in range(n):
            for j in range(i + 1, n):
                total += 1
                if arms[i].answer == arms[j].answer:
                    agree += 1
        s_end = agree / total
    s_path = 0.0
    lengths = [len(a.reasoning.split()) for a in arms]
    if lengths and sum(lengths) > 0:
        avg = sum(lengths) / len(lengths)
        var = sum((length - avg) ** 2 for length in lengths) / len(lengths)
        s_path = max(0.0, min(1.0, 1.0 / (1.0 + var / (avg + 1e-6))))
    s_wm = 0.4 * s_end + 0.3 * s_path + 0.3 * 0.5
    base = 1.0 if gold is not None and any(a.answer == gold for a in arms) else -0.5
    avg_len = sum(len(a.full_text.split()) for a in arms) / max(1, n)
    return base + 0.7 * s_wm + -0.001 * max(0, avg_len - 400)


# (arms, gold, reward worked out by hand). Equal lengths give s_path = 1.
BY_HAND = [
    ([], "#### 7", -0.395),
    ([arm("7")], "#### 7", 1.595),
    ([arm("8")], "#### 7", 0.095),
    ([arm("7")] * 8, "#### 7", 1.595),
    ([arm("8")] * 8, "#### 7", 0.095),
    ([arm("8")] * 8, None, 0.095),
    ([arm("7")] * 8, None, 0.095),
    ([arm("7")] * 8, "no number", 0.095),
    ([arm("7")] + [arm("8")] * 7, "#### 7", 1.525),
    ([arm("7")] * 4 + [arm("8")] * 4, "#### 7", 1.435),
    ([arm(str(answer)) for answer in range(8)], "#### 7", 1.315),
    ([arm(str(answer)) for answer in range(8)], "#### 9", -0.185),
    ([arm("7"), arm("7"), arm("8")], "#### 7", 1 + 0.7 * (0.4 / 3 + 0.45)),
    ([arm("7"), arm("8")], "#### 7", 1.315),
    ([arm("7", 0), arm("7", 0)], "#### 7", 1.385),
    ([arm("7", 1), arm("7", 3)], "#### 7", 1 + 0.7 * (0.55 + 0.3 / (1 + 1 / 2.000001))),
    ([arm("7", words=400)] * 2, "#### 7", 1.595),
    ([arm("7", words=401)] * 2, "#### 7", 1.594),
    ([arm("7", words=300), arm("7", words=700)], "#### 7", 1.495),
    ([arm("7", words=0), arm("7", words=800)], "#### 7", 1.595),
    ([arm("8", words=5000)], "#### 7", 0.095 - 4.6),
    # Where the recipe compared raw strings, canonical answers are compared.
    ([arm("#### 7"), arm("7.00")], "#### 7", 1.595),
    ([arm("#### $1,080"), arm("1080")], "#### 1,080", 1.595),
    ([arm("1,999"), arm("1")], "#### 1,080", -0.185),
    # No answer agrees with nothing and is never correct.
    ([arm(None), arm(None)], "#### 7", -0.185),
    ([arm(""), arm("7")], "#### 7", 1.315),
]


@pytest.mark.parametrize(("arms", "gold", "reward"), BY_HAND)
def test_original_reward_by_hand(arms: list[ArmOutput], gold: str | None, reward: float) -> None:
    assert compute_reward(QUESTION, arms, gold, formulas="original") == pytest.approx(
        reward, abs=1e-12
    )


def random_arm(rng: random.Random) -> ArmOutput:
    answer = rng.choice(["7", "8", "-5", "0.5", "1/3"])
    return arm(answer, rng.randrange(0, 300), rng.randrange(0, 900))


@pytest.mark.parametrize("seed", range(40))
def test_original_reward_is_the_recipes(seed: int) -> None:
    rng = random.Random(seed)
    arms = [random_arm(rng) for _ in range(rng.randrange(0, 17))]
    gold = rng.choice(["7", "8", "1/3", "99", None])
    reward = compute_reward(QUESTION, arms, gold and f"#### {gold}", formulas="original")
    assert reward == pytest.approx(recipe_reward(arms, gold), abs=1e-12)


def test_scores_of_a_group() -> None:
    arms = [arm("#### 7.0"), arm("8"), arm(None), arm("18 dollars")]
    scores = compute_regime_w_scores(QUESTION, arms, GOLD, formulas="original")
    assert scores.answers == ("7", "8", None, "18")
    assert scores.correct == (True, False, False, False)
    assert (scores.s_end, scores.s_path, scores.s_cf) == (0.0, 1.0, 0.5)
    assert scores.s_wm == pytest.approx(0.45)
    with pytest.raises(FrozenInstanceError):
        scores.s_end = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("gold", [None, "", "no number", "#### 7 or 8"])
def test_without_a_readable_gold_nothing_is_judged(gold: str | None) -> None:
    assert compute_regime_w_scores(QUESTION, [arm("7")], gold).correct is None
    assert arm_rewards(QUESTION, [arm("7")], gold) == (-0.5,)


def test_unknown_formulas_are_an_error() -> None:
    with pytest.raises(ValueError, match="formulas: 'other'"):
        compute_reward(QUESTION, [], formulas="other")  # type: ignore[arg-type]


# (arms, what each earns by hand); gold is 7 and s_path = 1.
PER_ARM = [
    ([], ()),
    ([arm("7")], (1 + 0.7 * 0.85,)),
    ([arm("8")], (-0.5,)),
    ([arm(None)], (-0.5,)),
    ([arm("7"), arm("7")], (1.595, 1.595)),
    ([arm("7"), arm("8")], (1.315, -0.5)),
    ([arm("7"), arm("7"), arm("8")], (1 + 0.7 * 0.65, 1 + 0.7 * 0.65, -0.5)),
    ([arm("7"), *[arm("8")] * 7], (1.315, *[-0.5] * 7)),
    ([arm("8")] * 8, (-0.5,) * 8),
    ([arm(None)] * 8, (-0.5,) * 8),
    ([arm("7", words=500), arm("8", words=1400)], (1.215, -1.5)),
]


@pytest.mark.parametrize(("arms", "rewards"), PER_ARM)
def test_per_arm_credit_by_hand(arms: list[ArmOutput], rewards: tuple[float, ...]) -> None:
    config = RewardConfig(formulas="original")
    assert arm_rewards(QUESTION, arms, GOLD, config=config) == pytest.approx(rewards, abs=1e-12)


def test_shared_credit_is_the_group_scalar() -> None:
    config = RewardConfig(credit="shared")
    arms = [arm("7"), arm("8"), arm(None, 50, 900)]
    assert (
        arm_rewards(QUESTION, arms, GOLD, config=config)
        == (compute_reward(QUESTION, arms, GOLD, config=config),) * 3
    )
    assert arm_rewards(QUESTION, [], GOLD, config=config) == ()


ARMS = st.lists(
    st.builds(
        arm,
        st.sampled_from(["7", "#### 7.0", "8", "9", "nothing", None]),
        st.integers(0, 300),
        st.integers(0, 900),
    ),
    max_size=10,
)


@settings(deadline=None)
@given(ARMS)
def test_wrong_arms_earn_nothing_but_their_length(arms: list[ArmOutput]) -> None:
    scores = compute_regime_w_scores(QUESTION, arms, GOLD)
    assert scores.correct is not None
    rewards = arm_rewards(QUESTION, arms, GOLD)
    for output, is_correct, reward in zip(arms, scores.correct, rewards, strict=True):
        length = 0.001 * max(0, len(output.full_text.split()) - 400)
        if is_correct:
            assert 1.0 - length <= reward <= 1.7 - length
        else:
            assert reward == -0.5 - length


@settings(deadline=None)
@given(ARMS, st.randoms(use_true_random=False))
def test_the_order_of_arms_does_not_matter(arms: list[ArmOutput], rng: random.Random) -> None:
    order = list(range(len(arms)))
    rng.shuffle(order)
    shuffled = [arms[index] for index in order]
    rewards = arm_rewards(QUESTION, arms, GOLD)
    assert arm_rewards(QUESTION, shuffled, GOLD) == pytest.approx(
        [rewards[index] for index in order], abs=1e-12
    )
    assert compute_reward(QUESTION, shuffled, GOLD) == pytest.approx(
        compute_reward(QUESTION, arms, GOLD), abs=1e-12
    )


@settings(deadline=None)
@given(st.lists(st.text(st.characters(), max_size=40), max_size=4), st.none() | st.text())
def test_no_text_raises(texts: list[str], gold: str | None) -> None:
    arms = [ArmOutput.from_text("wolfram_0", text) for text in texts]
    compute_reward(QUESTION, arms, gold)
    assert len(arm_rewards(QUESTION, arms, gold)) == len(arms)


def test_every_constant_counts() -> None:
    config = RewardConfig(
        formulas="original",
        correct_bonus=2.0,
        wrong_base=-1.0,
        coherence_weight=1.0,
        w_end=0.5,
        w_path=0.25,
        w_cf=0.25,
        length_penalty_per_word=0.01,
        free_words=0,
    )
    arms = [arm("7"), arm("8")]
    # s_end = agree_0 = 0, s_path = 1, s_cf = 0.5, ten words each.
    assert compute_reward(QUESTION, arms, GOLD, config=config) == pytest.approx(2 + 0.375 - 0.1)
    assert arm_rewards(QUESTION, arms, GOLD, config=config) == pytest.approx((2.275, -1.1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"w_end": 0.5}, "w_end"),
        ({"w_end": -0.4, "w_path": 1.0, "w_cf": 0.4}, "w_end"),
        ({"free_words": -1}, "free_words"),
        ({"length_penalty_per_word": float("nan")}, "length_penalty_per_word"),
        ({"formulas": "other"}, "formulas"),
        ({"credit": "other"}, "credit"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_bad_config_is_an_error_that_names_the_key(
    wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        RewardConfig.model_validate(wrong)


def test_every_constant_says_what_it_is() -> None:
    for name, field in RewardConfig.model_fields.items():
        assert field.description, name


def test_outputs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        arm("7").answer = "8"  # type: ignore[misc]
    assert replace(arm("7"), answer="8") == arm("8")
