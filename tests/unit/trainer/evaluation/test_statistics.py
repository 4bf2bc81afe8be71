"""Estimates and tests against independent computations: closed forms, enumeration, scipy's own."""

import math
from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, bootstrap, mannwhitneyu, norm

from trainer.evaluation.statistics import (
    CONFIDENCE,
    Trend,
    auc,
    auc_interval,
    difference_interval,
    is_below_best,
    mcnemar_p_value,
    mean_interval,
    paired_interval,
    pass_at_k,
    wilson_interval,
)

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

# Newcombe (1998), Statistics in Medicine 17:857, table I: the score method without correction.
PUBLISHED = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
]

# --- Wilson -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_correct", "num_questions", "low", "high"), PUBLISHED)
def test_wilson_interval_is_the_published_one(
    num_correct: int, num_questions: int, low: float, high: float
) -> None:
    assert wilson_interval(num_correct, num_questions) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17:873, table II, method 10.
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_the_interval_of_a_difference_is_the_published_one(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    assert difference_interval(first, second, CONFIDENCE) == pytest.approx((low, high), abs=5e-5)
    assert difference_interval(second, first, CONFIDENCE) == pytest.approx((-high, -low), abs=5e-5)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_the_closed_form(counts: tuple[int, int]) -> None:
    right, n = counts
    p, z = right / n, float(norm.ppf(0.975))
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    expected = (max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale))
    assert wilson_interval(right, n) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "num_comparisons", "is_below"),
    [
        # The 95% interval of 0.8 - 0.67, from Wilson's of both, is from 0.008 on; with three comparisons, the
        # 98.3% interval holds 0.
        ((67, 100), 0, True),
        ((67, 100), 1, True),
        ((67, 100), 3, False),
        ((80, 100), 1, False),
        ((90, 100), 1, False),
        ((0, 100), 10**14, True),
    ],
)
def test_the_more_comparisons_the_farther_below_the_best_is_below_it(
    counts: tuple[int, int], num_comparisons: int, is_below: bool
) -> None:
    assert is_below_best(counts, (80, 100), num_comparisons=num_comparisons) == is_below


# --- paired differences -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_questions", "won", "lost"),
    [(20, 0.05, 0.05), (50, 0.03, 0.01), (100, 0.02, 0.0), (100, 0.15, 0.10), (200, 0.2, 0.1)],
)
def test_paired_intervals_cover_the_difference(num_questions: int, won: float, lost: float) -> None:
    # Over every outcome; the bootstrap's intervals of the second and the third cover it in 80 and 87 %.
    covered = 0.0
    for num_won in range(num_questions + 1):
        of_won = binom.pmf(num_won, num_questions, won)
        rest = num_questions - num_won
        of_lost = binom.pmf(range(rest + 1), rest, lost / (1 - won))
        for num_lost, probability in enumerate(of_lost):
            if of_won * probability > 1e-9:
                low, high = paired_interval(gains(num_won, num_lost, num_questions))
                covered += of_won * probability * (low <= won - lost <= high)
    assert covered > 0.945


def test_paired_intervals_at_their_limits() -> None:
    low, high = paired_interval(gains(0, 0, 20))
    assert high == -low == pytest.approx(1.959964 * math.sqrt(2 / 22) / math.sqrt(22))
    assert paired_interval(gains(5, 0, 5))[1] == 1.0
    mirrored = [-end for end in paired_interval(gains(8, 3, 50))[::-1]]
    assert paired_interval(gains(3, 8, 50)) == pytest.approx(mirrored)


def gains(num_won: int, num_lost: int, num_questions: int) -> list[float]:
    """Per question: won, lost or neither."""
    return [1.0] * num_won + [-1.0] * num_lost + [0.0] * (num_questions - num_won - num_lost)


# --- means of values with bounds ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_won", "num_lost", "num_questions"), [(30, 12, 100), (1, 0, 1), (0, 0, 7), (3, 9, 12)]
)
def test_the_interval_of_pairs_is_bonett_and_prices(
    num_won: int, num_lost: int, num_questions: int
) -> None:
    n = num_questions + 2
    won, lost = (num_won + 1) / n, (num_lost + 1) / n
    half = 1.959964 * math.sqrt((won + lost - (won - lost) ** 2) / n)
    expected = max(-1.0, won - lost - half), min(1.0, won - lost + half)
    assert paired_interval(gains(num_won, num_lost, num_questions)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "values",
    [
        [1.0] * 120 + [-1.0] * 48 + [0.0] * 232,
        [0.125 * (i % 9) for i in range(400)],
        [0.3, -0.7, 0.2, 0.2, 1.0, -0.1, 0.4, 0.0] * 60,
    ],
)
def test_of_many_values_it_is_the_bootstraps(values: list[float]) -> None:
    theirs = bootstrap(
        (np.asarray(values),), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert paired_interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.1 * width)


@pytest.mark.parametrize("num_questions", [10, 50, 200, 1000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5])
def test_intervals_of_shares_cover_their_mean(num_questions: int, share: float) -> None:
    # Some questions are never answered correctly; of the others some in 7 of 8 completions, most always.
    rng, num_runs = np.random.default_rng(0), 2000
    values = np.where(rng.random((num_runs, num_questions)) < 0.1, 7 / 8, 1.0)
    values[rng.random(values.shape) < share] = 0.0
    truth = (1 - share) * (0.9 + 0.1 * 7 / 8)
    intervals = [mean_interval(row.tolist()) for row in values]
    # The bootstrap's cover it in 66 % of runs with 50 questions and a share of 2 %.
    assert np.mean([low <= truth <= high for low, high in intervals]) > 0.935


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60))
def test_intervals_hold_the_mean_and_have_a_width(values: list[float]) -> None:
    for interval, lowest in ((mean_interval, 0.0), (paired_interval, -1.0)):
        low, high = interval(values)
        assert lowest <= low < high <= 1.0
        assert low <= sum(values) / len(values) <= high


def test_one_answer_less_hardly_changes_an_interval() -> None:
    all_right = mean_interval([1.0] * 50)
    assert all_right == wilson_interval(50, 50)
    assert mean_interval([1.0] * 49 + [7 / 8]) == pytest.approx(all_right, abs=0.03)


# --- McNemar ----------------------------------------------------------------------------------


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_binomial_tail_twice(won: int, lost: int) -> None:
    n = won + lost
    expected = min(1.0, 2 * float(binom.cdf(min(won, lost), n, 0.5))) if n else 1.0
    assert mcnemar_p_value(won, lost) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_p_value(won, lost) == mcnemar_p_value(lost, won)


@pytest.mark.parametrize(
    ("won", "lost", "expected"),
    [
        (6, 0, 2 / 64),
        (1, 0, 1.0),
        (0, 0, 1.0),
        (5, 5, 1.0),
        (9, 1, 2 * (1 + 10) / 1024),
    ],
)
def test_mcnemar_by_hand(won: int, lost: int, expected: float) -> None:
    assert mcnemar_p_value(won, lost) == pytest.approx(expected)


# --- pass@k -----------------------------------------------------------------------------------


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_k_is_the_share_of_all_choices_with_a_right_one(counts: tuple[int, int]) -> None:
    n, c = counts
    right = [index < c for index in range(n)]
    for k in range(1, n + 1):
        choices = list(combinations(right, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_is_unbiased() -> None:
    # E over c ~ Binomial(n, p) of the estimate is 1 − (1 − p)^k, exactly.
    n, p = 8, 0.3
    for k in range(1, n + 1):
        mean = sum(float(binom.pmf(c, n, p)) * pass_at_k(n, c, k) for c in range(n + 1))
        assert mean == pytest.approx(1 - (1 - p) ** k)


def test_pass_at_k_equals_the_papers_product() -> None:
    # Chen et al. 2021, figure 3: 1 − Π (1 − k / i) for i in n − c + 1 … n.
    for n, c, k in [(200, 3, 100), (100, 99, 1), (200, 150, 10), (64, 0, 8), (64, 64, 8)]:
        product_form = (
            1 - math.prod(1 - k / i for i in range(n - c + 1, n + 1)) if n - c >= k else 1.0
        )
        assert pass_at_k(n, c, k) == pytest.approx(product_form)


@pytest.mark.parametrize("k", [0, -1, 9])
def test_k_is_within_the_completions(k: int) -> None:
    with pytest.raises(ValueError, match="k must be from 1 to 8"):
        pass_at_k(8, 3, k)


# --- AUC --------------------------------------------------------------------------------------

SCORED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()),
    min_size=2,
    max_size=40,
)


@given(SCORED)
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[float, bool]]) -> None:
    right = [score for score, is_right in pairs if is_right]
    wrong = [score for score, is_right in pairs if not is_right]
    found = auc([score for score, _ in pairs], [is_right for _, is_right in pairs])
    if not (right and wrong):
        assert found is None
        return
    wins = [(r > w) + 0.5 * (r == w) for r in right for w in wrong]
    assert found == pytest.approx(sum(wins) / len(wins))
    statistic = mannwhitneyu(right, wrong, method="asymptotic").statistic
    assert found == pytest.approx(statistic / (len(right) * len(wrong)))


def test_the_interval_of_auc_has_the_published_width() -> None:
    # Hanley and McNeil 1982: the error of AUC by Q1 = A/(2 − A), Q2 = 2A²/(1 + A).
    rng = np.random.default_rng(0)
    correct = rng.random(1000) < 0.6
    scores = np.where(correct, rng.normal(1.0, 1.0, 1000), rng.normal(0.0, 1.0, 1000))
    area = auc(list(scores), list(correct))
    assert area is not None
    assert area == pytest.approx(float(norm.cdf(1 / math.sqrt(2))), abs=0.03)
    num_right, num_wrong = int(correct.sum()), int((~correct).sum())
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    variance = (
        area * (1 - area) + (num_right - 1) * (q1 - area**2) + (num_wrong - 1) * (q2 - area**2)
    )
    error = math.sqrt(variance / (num_right * num_wrong))
    found = auc_interval(list(scores), list(correct))
    assert found == pytest.approx((area - 1.96 * error, area + 1.96 * error), abs=0.004)
    assert auc_interval([0.1, 0.2], [True, True]) is None


# --- trends -----------------------------------------------------------------------------------


def test_trends_are_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise = list(rng.normal(0, 1, 40))
    flat = Trend.of(noise)
    assert not flat.rises
    assert flat.p_value >= 0.05
    rising = Trend.of([0.1 * step + value for step, value in enumerate(noise)])
    assert rising.rises
    falling = Trend.of([-0.1 * step + value for step, value in enumerate(noise)])
    assert not falling.rises
    assert falling.p_value < 0.05
    assert falling.last < falling.first


def test_a_trend_compares_quarters() -> None:
    found = Trend.of([1.0, 3.0, 0.0, 0.0, 0.0, 0.0, 5.0, 7.0])
    assert (found.first, found.last) == (2.0, 6.0)
    assert Trend.of([4.0]) == Trend(first=4.0, last=4.0, tau=0.0, p_value=1.0)
    assert Trend.of([4.0, 4.0, 4.0]).p_value == 1.0


@pytest.mark.parametrize(("autocorrelation", "most"), [(0.0, 0.06), (0.5, 0.08), (0.8, 0.12)])
def test_steps_that_resemble_those_before_them_are_seldom_taken_for_a_trend(
    autocorrelation: float, most: float
) -> None:
    # Where steps are taken for independent, 0.12 and 0.26 of the last two rise.
    rng, num_steps, num_series = np.random.default_rng(1), 50, 300
    values = rng.normal(size=(num_steps + 50, num_series))
    for before, now in pairwise(values):
        now += autocorrelation * before
    assert sum(Trend.of(list(series)).rises for series in values[50:].T) / num_series < most


@pytest.mark.parametrize("num_steps", [20, 40, 150])
@pytest.mark.parametrize("shape", [lambda x: x, lambda x: 1 - np.exp(-8 * x), lambda x: x**4])
def test_a_rise_of_any_shape_is_one(
    num_steps: int, shape: Callable[[FloatArray], FloatArray]
) -> None:
    rng = np.random.default_rng(2)
    curve = shape(np.linspace(0, 1, num_steps)) + 0.1 * rng.normal(size=num_steps)
    assert Trend.of(list(curve)).rises
    assert not Trend.of(list(-curve)).rises


def test_a_fall_whose_last_quarter_is_high_is_no_rise() -> None:
    found = Trend.of([*map(float, range(30, 0, -1)), *[0.0] * 8, 400.0, 400.0])
    assert found.last > found.first
    assert found.tau < 0
    assert found.p_value < 0.05
    assert not found.rises
