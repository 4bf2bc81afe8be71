"""The recipe's scores: hand-computed values, bounds, and invariance under reordering."""

from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_w import (
    ArmOutput,
    s_cf_for_question,
    s_end_for_question,
    s_path_for_question,
    s_wm_for_question,
)

ANSWERS = st.lists(st.sampled_from(["7", "8", "9", None]), max_size=12)


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        ([], 0.0),
        (["7"], 1.0),
        ([None], 1.0),
        (["7", "7"], 1.0),
        (["7", "8"], 0.0),
        ([None, None], 0.0),
        (["7", None], 0.0),
        (["7", "7", "8"], 1 / 3),
        (["7", "7", None, None], 1 / 6),
        (["7", "7", "8", "8"], 2 / 6),
        (["7"] * 7 + ["8"], 21 / 28),
        (["7"] * 4 + ["8"] * 4, 12 / 28),
    ],
)
def test_s_end(answers: list[str | None], score: float) -> None:
    assert s_end_for_question(answers) == score


@given(ANSWERS)
def test_s_end_is_the_share_of_agreeing_pairs(answers: list[str | None]) -> None:
    pairs = list(combinations(answers, 2))
    if pairs:
        agreeing = sum(a is not None and a == b for a, b in pairs)
        assert s_end_for_question(answers) == agreeing / len(pairs)


def test_s_end_takes_large_groups() -> None:
    # 10^10 pairs: only counting classes ends.
    assert s_end_for_question(["7"] * 100_000) == 1.0


@pytest.mark.parametrize(
    ("reasonings", "score"),
    [
        ([], 0.0),
        ([""], 0.0),
        (["", " \n "], 0.0),
        (["a"], 1.0),
        (["a b", "c d"], 1.0),
        (["a", "b c d"], 1 / (1 + 1 / 2.000001)),
        (["3 + 4 = 7", "Start with 3 apples, add 4"], 1 / (1 + 0.25 / 5.500001)),
        (["", "a b c d"], 1 / (1 + 4 / 2.000001)),
    ],
)
def test_s_path(reasonings: list[str], score: float) -> None:
    assert s_path_for_question(reasonings) == pytest.approx(score, abs=1e-15)


def test_s_cf_is_one_half() -> None:
    assert s_cf_for_question([]) == 0.5
    assert s_cf_for_question([ArmOutput.from_text("wolfram_0", "#### 7")]) == 0.5


@pytest.mark.parametrize(
    ("scores", "s_wm"),
    [
        ((1.0, 1.0, 0.5), 0.85),
        ((0.0, 0.0, 0.5), 0.15),
        ((0.75, 1.0, 0.5), 0.75),
        ((0.0, 0.0, 0.0), 0.0),
        ((1.0, 1.0, 1.0), 1.0),
        ((None, 1.0, 0.5), 0.75),
        ((1.0, None, 0.0), 4 / 7),
        ((1.0, 0.0, None), 4 / 7),
        ((None, None, 0.5), 0.5),
        ((None, None, None), None),
    ],
)
def test_s_wm(scores: tuple[float | None, float | None, float | None], s_wm: float | None) -> None:
    assert s_wm_for_question(*scores) == pytest.approx(s_wm, abs=1e-15)


def test_s_wm_abstains_where_all_its_weight_abstains() -> None:
    assert s_wm_for_question(None, 1.0, 1.0, w_end=1.0, w_path=0.0, w_cf=0.0) is None


UNIT = st.none() | st.floats(0, 1)


@given(UNIT, UNIT, UNIT)
def test_s_wm_stays_between_its_parts(
    s_end: float | None, s_path: float | None, s_cf: float | None
) -> None:
    present = [score for score in (s_end, s_path, s_cf) if score is not None]
    s_wm = s_wm_for_question(s_end, s_path, s_cf)
    if s_wm is None:
        assert not present
    else:
        assert min(present) - 1e-12 <= s_wm <= max(present) + 1e-12


@settings(deadline=None)
@given(ANSWERS, st.lists(st.integers(0, 600), max_size=12), st.randoms(use_true_random=False))
def test_scores_are_bounded_and_ignore_the_order(
    answers: list[str | None], word_counts: list[int], random: Random
) -> None:
    reasonings = ["w " * count for count in word_counts]
    s_end, s_path = s_end_for_question(answers), s_path_for_question(reasonings)
    assert 0 <= s_end <= 1
    assert 0 <= s_path <= 1
    random.shuffle(answers)
    random.shuffle(reasonings)
    assert s_end_for_question(answers) == s_end
    assert s_path_for_question(reasonings) == pytest.approx(s_path, abs=1e-12)
