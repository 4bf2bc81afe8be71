"""Cross-checked scores and credit: what a group earns, in which order, and by whose merit."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_w import (
    ArmOutput,
    Counterfactual,
    CounterfactualGroup,
    RewardConfig,
    RewardParts,
    arm_rewards,
    build_all_arms,
    compute_regime_w_scores,
    compute_reward,
    reward_group,
    select_arms,
)

QUESTION = "Ada has 12 pens, buys 7 more and gives 4 away. How many has she?"
GOLD = "#### 15"
RIGHT = "12 + 7 = 19 pens\n19 - 4 = 15 pens\n#### 15"
ROUTE = "7 - 4 = 3 pens more\n12 + 3 = 15 pens\n#### 15"
WRONG = "12 + 7 = 19 pens\n#### 19"
SILENT = "I do not know."
NAMES = [arm.name for arm in build_all_arms()]


def outputs(texts: Sequence[str], names: Sequence[str] = NAMES) -> list[ArmOutput]:
    return [ArmOutput.from_text(n, t) for n, t in zip(names, texts, strict=True)]


def wrong(number: int) -> str:
    return f"12 + {number} = {12 + number} pens\n#### {12 + number}"


def padded(text: str) -> str:
    """The text after fifteen true equations that lead nowhere."""
    return "".join(f"{i} + {i + 1} = {2 * i + 1}\n" for i in range(30, 45)) + text


# --- the order of rewards ---------------------------------------------------------------------


def test_rewards_stand_in_the_order_of_merit() -> None:
    groups = {
        "all right": [RIGHT] * 8,
        "right with padding": [padded(RIGHT)] * 8,
        "right with many words": ["well " * 500 + "\n" + RIGHT] * 8,
        "one right": [RIGHT, *(wrong(20 + i) for i in range(7))],
        "all wrong and different": [wrong(20 + i) for i in range(8)],
        "all wrong and identical": [WRONG] * 8,
        "all silent": [SILENT] * 8,
    }
    total = {
        name: sum(arm_rewards(QUESTION, outputs(texts), GOLD)) for name, texts in groups.items()
    }
    assert total["all right"] > total["right with padding"] > total["one right"]
    assert total["all right"] > total["right with many words"] > total["one right"]
    assert total["one right"] > total["all wrong and different"]
    assert total["all wrong and different"] >= total["all wrong and identical"]
    assert total["all wrong and identical"] >= total["all silent"]
    assert total["all right"] == pytest.approx(8 * 1.7)
    assert total["all silent"] == -4.0


TEXTS = st.sampled_from([RIGHT, ROUTE, WRONG, SILENT, wrong(20), wrong(21), "#### 15", ""])
GROUPS = st.lists(TEXTS, min_size=8, max_size=8)


@settings(deadline=None)
@given(GROUPS, st.integers(0, 7), TEXTS)
def test_a_silent_arm_earns_the_least(texts: list[str], place: int, text: str) -> None:
    silent, other = list(texts), list(texts)
    silent[place], other[place] = SILENT, text
    rewards = arm_rewards(QUESTION, outputs(silent), GOLD)
    assert rewards[place] == min(rewards) == -0.5
    assert rewards[place] <= arm_rewards(QUESTION, outputs(other), GOLD)[place]


@settings(deadline=None)
@given(GROUPS, st.integers(0, 7), st.sampled_from(["per_arm", "difference"]))
def test_a_dissenting_wrong_arm_never_raises_its_own_reward(
    texts: list[str], place: int, credit: str
) -> None:
    config = RewardConfig.model_validate({"credit": credit})
    conforming, dissenting = list(texts), list(texts)
    conforming[place], dissenting[place] = WRONG, wrong(99)
    with_it = arm_rewards(QUESTION, outputs(dissenting), GOLD, config=config)[place]
    without = arm_rewards(QUESTION, outputs(conforming), GOLD, config=config)[place]
    assert with_it <= without + 1e-9


def test_constant_answerers_earn_less_than_honest_ones_on_a_counterfactual_pair() -> None:
    pair = Counterfactual(
        question=QUESTION.replace("12", "24"), gold="27", offset=None, change=("12", "24")
    )
    honest_text = "24 + 7 = 31 pens\n31 - 4 = 27 pens\n#### 27"

    def total(on_the_new_one: str) -> float:
        group = CounterfactualGroup(counterfactual=pair, arm_outputs=outputs([on_the_new_one] * 8))
        return sum(arm_rewards(QUESTION, outputs([RIGHT] * 8), GOLD, counterfactual=group))

    assert total(honest_text) > total(RIGHT) + 8 * 0.15
    assert total(honest_text) == pytest.approx(8 * 1.7)


# --- scores by hand ---------------------------------------------------------------------------


def test_the_parts_of_a_mixed_group_by_hand() -> None:
    texts = [RIGHT, RIGHT, WRONG, SILENT, RIGHT, ROUTE, "#### 15", "#### 7"]
    scores = compute_regime_w_scores(QUESTION, outputs(texts), GOLD)
    assert scores.answers == ("15", "15", "19", None, "15", "15", "15", "7")
    assert scores.correct == (True, True, False, False, True, True, True, False)
    assert scores.consensus == "15"
    # Five of eight agree: 10 of 28 pairs, of which 1 + 3 of 12 within families, 6 of 16 across.
    assert scores.s_end == pytest.approx(10 / 28)
    assert scores.within_family_agreement == pytest.approx(4 / 12)
    assert scores.cross_family_agreement == pytest.approx(6 / 16)
    # Right under cool and warm: W 2/2 and 0/2, M 2/2 and 1/2, so p = 1, 1/2, 0, 0.
    assert scores.chsh == pytest.approx((-3, -1, 1, 1))
    assert scores.s_cf == pytest.approx((0.375 + 0) / 2)
    assert scores.s_end is not None
    assert scores.s_cf is not None
    assert scores.s_path is not None
    assert scores.arm_paths is not None
    assert scores.s_path == pytest.approx(sum(scores.arm_paths) / 8)
    assert scores.s_wm == pytest.approx(
        0.4 * scores.s_end + 0.3 * scores.s_path + 0.3 * scores.s_cf
    )
    assert scores.abstentions == ()


def test_per_arm_credit_by_hand() -> None:
    # Two families of one arm: p_00 alone. RIGHT and ROUTE share the result 15 of {19, 15} and
    # {3, 15}: cos = 1/2, so both paths are 3/4; the wrong arm shows true working but no closure.
    names = ["wolfram_0", "maudlin_0"]
    rewards = arm_rewards(QUESTION, outputs([RIGHT, ROUTE], names), GOLD)
    assert rewards == pytest.approx((1 + 0.7 * (0.4 + 0.3 * 0.75 + 0.3),) * 2)
    one_right = arm_rewards(QUESTION, outputs([RIGHT, SILENT], names), GOLD)
    assert one_right == pytest.approx((1 + 0.7 * (0.3 * 1.0), -0.5))


def test_without_a_gold_any_agreement_counts() -> None:
    scores = compute_regime_w_scores(QUESTION, outputs([WRONG] * 8))
    assert (scores.s_cf, scores.correct) == (1.0, None)
    assert compute_regime_w_scores(QUESTION, outputs([WRONG] * 8), GOLD).s_cf == 0.0


@pytest.mark.parametrize(
    ("gold", "new_answers", "s_cf"),
    [
        (None, "32", 1.0),  # moved by 17, as the suffix asks
        (None, "15", 0.25),  # the old answer again: p = 1, 0, 0, 1
        ("#### 15", "32", 1.0),
        ("#### 15", "15", 0.125),  # right on the old one alone: p = 1, 0, 0, 0
        ("#### 16", "32", 0.125),
    ],
)
def test_a_suffix_pair_is_compared_with_and_without_a_gold(
    gold: str | None, new_answers: str, s_cf: float
) -> None:
    pair = Counterfactual(question="q", gold="32", offset="17", change=None)
    group = CounterfactualGroup(
        counterfactual=pair, arm_outputs=outputs([f"#### {new_answers}"] * 8)
    )
    scores = compute_regime_w_scores(QUESTION, outputs([RIGHT] * 8), gold, counterfactual=group)
    assert scores.s_cf == pytest.approx(s_cf)


def test_a_reexecuted_pair_without_a_gold_counts_only_the_new_question() -> None:
    pair = Counterfactual(question="q", gold="27", offset=None, change=("12", "24"))
    group = CounterfactualGroup(counterfactual=pair, arm_outputs=outputs(["#### 27"] * 8))
    scores = compute_regime_w_scores(QUESTION, outputs([RIGHT] * 8), counterfactual=group)
    assert scores.chsh == (0, 0, 0, -4)
    assert scores.s_cf == pytest.approx(0.125)


def test_a_counterfactual_group_must_hold_the_same_arms() -> None:
    pair = Counterfactual(question="q", gold="27", offset=None, change=("12", "24"))
    group = CounterfactualGroup(counterfactual=pair, arm_outputs=outputs(["#### 27"], ["other"]))
    with pytest.raises(ValueError, match="same arms"):
        compute_regime_w_scores(QUESTION, outputs([RIGHT] * 8), GOLD, counterfactual=group)


@pytest.mark.parametrize(
    ("texts", "names", "abstaining", "s_wm"),
    [
        ([], [], ["s_end: needs two arms, not 0", "s_path: no arms", "s_cf: needs two families, not 0"], None),
        # A lone arm is judged by its path, which is perfect.
        ([RIGHT], ["solo"], ["s_end: needs two arms, not 1", "s_cf: needs two families, not 1"], 1.0),
        ([RIGHT, RIGHT], ["w_0", "w_1"], ["s_cf: needs two families, not 1"], 1.0),
        ([RIGHT, WRONG], ["w_0", "w_1"], ["s_cf: needs two families, not 1"], None),
        ([RIGHT] * 3, ["a", "b", "c"], ["s_cf: needs two families, not 3"], 1.0),
    ],
)  # fmt: skip
def test_what_abstains_says_why_and_the_rest_is_renormalised(
    texts: list[str], names: list[str], abstaining: list[str], s_wm: float | None
) -> None:
    scores = compute_regime_w_scores(QUESTION, outputs(texts, names), GOLD)
    assert list(scores.abstentions) == abstaining
    if s_wm is not None or not texts:
        assert scores.s_wm == s_wm
    else:
        assert scores.s_end == 0.0
        assert scores.s_path is not None
        assert scores.s_wm == pytest.approx(0.3 / 0.7 * scores.s_path)


def test_a_lone_arm_earns_by_its_path() -> None:
    assert arm_rewards(QUESTION, outputs([RIGHT], ["solo"]), GOLD) == pytest.approx((1.7,))


def test_halves_go_by_the_numbers_of_the_arms() -> None:
    # Of ten arms 0 to 4 are the cool half, whatever order they come in.
    names = [f"{family}_{i}" for family in ("w", "m") for i in range(10)]
    texts = [RIGHT if int(name.split("_")[1]) < 5 else WRONG for name in names]
    order = list(range(20))
    random.Random(3).shuffle(order)
    shuffled = compute_regime_w_scores(
        QUESTION, outputs([texts[i] for i in order], [names[i] for i in order]), GOLD
    )
    assert shuffled.chsh is not None
    assert sorted(shuffled.chsh) == [-4, 0, 0, 0]


# --- credit -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=8))
def test_difference_credit_is_what_the_group_loses(texts: list[str]) -> None:
    # Under the original formulas, where an arm's place in its family does not matter.
    config = RewardConfig(formulas="original")
    arms = outputs(texts, NAMES[: len(texts)])
    total = sum(arm_rewards(QUESTION, arms, GOLD, config=config))
    found = arm_rewards(
        QUESTION, arms, GOLD, config=RewardConfig(formulas="original", credit="difference")
    )
    for i, reward in enumerate(found):
        rest = sum(arm_rewards(QUESTION, arms[:i] + arms[i + 1 :], GOLD, config=config))
        assert reward == pytest.approx(total - rest, abs=1e-9)


def test_difference_credit_by_hand() -> None:
    # Two right arms of two families, one a silent third: p = 1/2 for W's cool arm alone.
    names = ["wolfram_0", "wolfram_1", "maudlin_0"]
    config = RewardConfig(credit="difference")
    found = arm_rewards(QUESTION, outputs([RIGHT, SILENT, RIGHT], names), GOLD, config=config)
    # With all: agree 1/2, path 1, contexts p_00 = 1 and p_10 = 0, so s_cf = (1/2 + 0)/2.
    right = 1 + 0.7 * (0.4 * 0.5 + 0.3 + 0.3 * 0.25)
    both = 2 * (1 + 0.7)  # without the silent arm
    alone_across = 1 + 0.7 * 0.3 - 0.5  # wolfram_1 beside maudlin_0: path 1, s_cf 0
    alone_within = 1 + 0.7 * 0.3 / 0.7 - 0.5  # one family: no s_cf, weights renormalised
    total = 2 * right - 0.5
    assert found == pytest.approx((total - alone_across, total - both, total - alone_within))


@settings(deadline=None)
@given(GROUPS, st.sampled_from([GOLD, None]))
def test_every_score_is_a_share_and_every_reward_in_its_range(
    texts: list[str], gold: str | None
) -> None:
    result = reward_group(outputs(texts), gold)
    scores = result.scores
    for score in (scores.s_end, scores.s_path, scores.s_cf, scores.s_wm):
        assert score is not None
        assert 0 <= score <= 1
    assert all(-0.5 <= reward <= 1.7 + 1e-9 for reward in result.rewards)
    assert result.rewards == arm_rewards(QUESTION, outputs(texts), gold)
    assert scores == compute_regime_w_scores(QUESTION, outputs(texts), gold)
    assert compute_reward(QUESTION, outputs(texts), gold) <= 1.7 + 1e-9


@pytest.mark.parametrize("credit", ["per_arm", "shared", "difference"])
@settings(deadline=None, max_examples=30)
@given(GROUPS, st.sampled_from([GOLD, None]))
def test_parts_sum_to_the_reward(credit: str, texts: list[str], gold: str | None) -> None:
    config = RewardConfig.model_validate({"credit": credit, "free_words": 2})
    result = reward_group(outputs(texts), gold, config=config)
    sums = [part.base + part.coherence + part.length for part in result.parts]
    assert sums == pytest.approx(list(result.rewards))
    if credit == "shared":
        assert result.rewards[0] == compute_reward(QUESTION, outputs(texts), gold, config=config)


def test_parts_by_hand() -> None:
    # Two families, both right: agree 1, path 1, s_cf 1. RIGHT has 14 words, four over ten.
    names = ["wolfram_0", "maudlin_0", "maudlin_1"]
    config = RewardConfig(free_words=10)
    assert len(RIGHT.split()) == 14
    found = reward_group(outputs([RIGHT, RIGHT, WRONG], names), GOLD, config=config)
    # Against the wrong third: agree 1/2, path 1 (the other family's best), p_00 = 1 and p_01 = 0.
    coherence = 0.7 * (0.4 * 0.5 + 0.3 * (found.scores.arm_paths or (0.0,))[0] + 0.3 * 0.25)
    assert found.parts[0].base == 1.0
    assert found.parts[0].coherence == pytest.approx(coherence)
    assert found.parts[0].length == pytest.approx(-0.004)
    assert found.parts[2] == RewardParts(-0.5, 0.0, 0.0)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(), max_size=60), min_size=8, max_size=8))
def test_no_text_raises(texts: list[str]) -> None:
    for credit in ("per_arm", "shared", "difference"):
        config = RewardConfig.model_validate({"credit": credit})
        assert len(arm_rewards(QUESTION, outputs(texts), texts[0], config=config)) == 8


# int() refuses 4300 digits and more, wherever such a number stands.
HUGE = "9" * 5000


@pytest.mark.parametrize(
    "text",
    [
        f"{HUGE} + 1 = 2\n#### 2", f"1 + 1 = {HUGE}\n#### 2", f"1 + 1 = 1 + {HUGE}\n#### 2", f"1.{HUGE} + 1 = 2\n#### 2",
        f"{HUGE}% * 2 = 2", f"({HUGE}) * 2 = 2", f"-{HUGE} * 2 = 2", f"<<{HUGE}+1=2>>", f"#### {HUGE}", f"{HUGE}/3", f"2 {HUGE}/{HUGE} = 1",
        f"1e{HUGE}", rf"\boxed{{{HUGE}}}", rf"{HUGE}\frac{{1}}{{2}} * 2 = 5", f"1 + 1 = 2.{HUGE}", HUGE, f"answer is {HUGE}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("credit", ["per_arm", "shared", "difference"])
def test_no_number_is_too_long_to_be_rewarded(text: str, credit: str) -> None:
    config = RewardConfig.model_validate({"credit": credit})
    assert len(arm_rewards(QUESTION, outputs([text] * 8), GOLD, config=config)) == 8
    assert len(arm_rewards(QUESTION, outputs([RIGHT] * 8), text, config=config)) == 8


@pytest.mark.parametrize(
    ("rewards", "selection", "places"),
    [
        ([1.0, 2.0, 0.5], "all", (0, 1, 2)),
        ([1.0, 2.0, 2.0], "best", (1,)),
        ([], "best", ()),
        ([], "random", ()),
        ([3.0], "random", (0,)),
    ],
)
def test_selection(rewards: list[float], selection: str, places: tuple[int, ...]) -> None:
    assert select_arms(rewards, selection, random.Random(0)) == places  # type: ignore[arg-type]


def test_random_selection_takes_every_arm_in_its_time_and_repeats_with_its_seed() -> None:
    rewards = [0.0] * 8
    taken = [select_arms(rewards, "random", random.Random(seed)) for seed in range(200)]
    assert {place for (place,) in taken} == set(range(8))
    assert taken == [select_arms(rewards, "random", random.Random(seed)) for seed in range(200)]


def test_reasoning_and_words_come_from_their_own_fields() -> None:
    arm = replace(outputs([RIGHT], ["solo"])[0], full_text="word " * 500)
    assert arm_rewards(QUESTION, [arm], GOLD) == pytest.approx((1.7 - 0.1,))


@pytest.mark.parametrize(
    ("texts", "gold", "expected"),
    [
        ([RIGHT, RIGHT], GOLD, 1),
        ([RIGHT, ROUTE], GOLD, 2),
        ([RIGHT, WRONG], GOLD, 1),
        ([RIGHT, "#### 15"], GOLD, 1),  # shows no equations
        (["#### 15", WRONG], GOLD, 0),
        ([RIGHT, ROUTE], None, None),
        ([], GOLD, None),
    ],
)
def test_different_ways_to_the_answer_are_counted(
    texts: list[str], gold: str | None, expected: int | None
) -> None:
    found = reward_group(outputs(texts, NAMES[: len(texts)]), gold, config=RewardConfig())
    assert found.scores.num_correct_paths == expected


def test_the_original_formulas_know_no_ways() -> None:
    config = RewardConfig(formulas="original")
    found = reward_group(outputs([RIGHT, ROUTE], NAMES[:2]), GOLD, config=config)
    assert found.scores.num_correct_paths is None
