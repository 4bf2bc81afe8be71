"""Estimates, intervals and tests over questions. Pure functions; each names its source.

The unit is always the question: completions of the same question are not independent, so intervals
are computed over questions. Every interval is a 95% interval unless it says otherwise, and every seed is fixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, hypot, sqrt

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import binomtest, kendalltau, norm, rankdata

CONFIDENCE = 0.95

_HIGHEST_CONFIDENCE = 1 - 1e-12
"""At a higher confidence, an interval has no finite ends in float64."""
_NUM_RESAMPLES = 2_000
_SEED = 0
_TAIL = (1 - CONFIDENCE) / 2
_FEWEST_FOR_AUTOCORRELATION = 8
_MOST_AUTOCORRELATION = 0.98


def wilson_interval(
    num_correct: int, num_questions: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The score interval of a proportion p = num_correct / n.

    ``(p + z²/2n ± z sqrt(p(1 − p)/n + z²/4n²)) / (1 + z²/n)`` with z = 1.96 at 95% (Wilson 1927). Unlike
    ``p ± z·se`` it stays within [0, 1] and has a width at 0 and at n correct answers.
    """
    interval = binomtest(num_correct, num_questions).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def difference_interval(
    first: tuple[int, int], second: tuple[int, int], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The interval of p1 − p2 for two models, each a pair of correct answers and questions.

    From both Wilson intervals, ``p1 − p2 − sqrt((p1 − l1)² + (u2 − p2)²)`` up to
    ``p1 − p2 + sqrt((u1 − p1)² + (p2 − l2)²)`` (Newcombe 1998, Statistics in Medicine 17:873, method 10). It assumes
    that the models are independent; for answers to the same questions it is wider than a paired interval.
    """
    (p1, l1, u1), (p2, l2, u2) = (
        (num / of, *wilson_interval(num, of, confidence)) for num, of in (first, second)
    )
    return p1 - p2 - hypot(p1 - l1, u2 - p2), p1 - p2 + hypot(u1 - p1, p2 - l2)


def is_below_best(
    counts: tuple[int, int], of_best: tuple[int, int], *, num_comparisons: int
) -> bool:
    """Whether a model is less accurate than the best of several evaluations by more than chance explains.

    The best is the largest of many estimates and so the luckiest. The confidence of `difference_interval` is therefore
    corrected (Bonferroni), so that all comparisons together have 95%.

    Args:
        counts: The model's correct answers and questions.
        of_best: Those of the best; even an accuracy of 100% is an estimate.
        num_comparisons: How many comparisons this one is among or was chosen from.
    """
    confidence = 1 - (1 - CONFIDENCE) / max(1, num_comparisons)
    _, gain = difference_interval(counts, of_best, min(confidence, _HIGHEST_CONFIDENCE))
    return gain < 0


def paired_interval(gains: Sequence[float]) -> tuple[float, float]:
    """The interval of the mean difference of two models on the same questions; see `bounded_mean_interval`.

    Args:
        gains: For each question the first model's value minus the second's, from −1 to 1; at least one. If all are
            −1, 0 or 1, this is Bonett and Price's interval (2012, Statistics in Medicine 31:479).
    """
    return bounded_mean_interval(gains, -1.0, 1.0)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval of the mean of one value from 0 to 1 per question: Wilson's if every value is 0 or 1."""
    if set(values) <= {0.0, 1.0}:
        return wilson_interval(round(sum(values)), len(values))
    return bounded_mean_interval(values, 0.0, 1.0)


def bounded_mean_interval(
    values: Sequence[float], lowest: float, highest: float
) -> tuple[float, float]:
    """The interval of a mean whose values have bounds.

    ``m ± z s/sqrt(n)``, within the bounds, with mean m and standard deviation s of the values and of one more at each
    bound, n in all. This is how Bonett and Price (2012) extend Agresti and Coull's interval (1998, The American
    Statistician 52:119), for values that may lie between the bounds too. The bootstrap's interval covers too little
    where few questions differ from the rest, and has no width where none does.
    """
    every = np.asarray([*values, lowest, highest])
    middle, half = every.mean(), norm.isf(_TAIL) * every.std() / sqrt(len(every))
    return max(lowest, float(middle - half)), min(highest, float(middle + half))


def mcnemar_p_value(num_won: int, num_lost: int) -> float:
    """Two-sided exact test that two models are equally often correct (McNemar 1947).

    Questions on which both are correct or both wrong carry no information; each of the others is won
    with probability 1/2 under the hypothesis: ``min(1, 2 P[X <= min(won, lost)])``, X binomial.

    Args:
        num_won: Questions that only the first model answers correctly.
        num_lost: Questions that only the second model answers correctly.
    """
    if num_won + num_lost == 0:
        return 1.0
    return float(binomtest(num_won, num_won + num_lost, 0.5).pvalue)


def pass_at_k(num_completions: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of the probability that one of k completions is correct: ``1 − C(n−c, k)/C(n, k)``.

    Chen et al. 2021 (arXiv 2107.03374), equation 1. With completions by different arms, k of them are
    drawn without replacement.

    Args:
        num_completions: n, at least k.
        num_correct: c, how many of them are correct.
        k: At least 1.
    """
    if not 1 <= k <= num_completions:
        raise ValueError(f"k must be from 1 to {num_completions}, not {k}")
    return 1.0 - comb(num_completions - num_correct, k) / comb(num_completions, k)


def auc(scores: Sequence[float], correct: Sequence[bool]) -> float | None:
    """Probability that a correct question scores above a wrong one; ties count half.

    The area under the ROC curve, as the Mann-Whitney statistic (Hanley and McNeil 1982). None if
    all are correct or all are wrong.
    """
    found = _aucs(np.asarray([scores], dtype=float), np.asarray([correct], dtype=bool))
    return float(found[0]) if len(found) else None


def auc_interval(scores: Sequence[float], correct: Sequence[bool]) -> tuple[float, float] | None:
    """The percentile bootstrap interval of `auc` over questions; None if `auc` is None."""
    if auc(scores, correct) is None:
        return None
    rng = np.random.default_rng(_SEED)
    drawn = rng.integers(len(scores), size=(_NUM_RESAMPLES, len(scores)))
    found = _aucs(np.asarray(scores, dtype=float)[drawn], np.asarray(correct, dtype=bool)[drawn])
    low, high = np.quantile(found, (_TAIL, 1 - _TAIL))
    return float(low), float(high)


def _aucs(
    scores: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    correct: np.ndarray[tuple[int, int], np.dtype[np.bool_]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """AUC of each row of [R, Q]; rows that are all correct or all wrong are left out.

    scipy's mannwhitneyu has the same statistic of one row, but neither it nor its bootstrap takes rows
    whose classes differ in size, nor a class of one question.
    """
    num_right = correct.sum(axis=1)
    both = (num_right > 0) & (num_right < correct.shape[1])
    scores, correct, num_right = scores[both], correct[both], num_right[both]
    rank_sums = (rankdata(scores, axis=1) * correct).sum(axis=1)
    num_wrong = correct.shape[1] - num_right
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = (
        rank_sums - num_right * (num_right + 1) / 2
    ) / (num_right * num_wrong)
    return found


@dataclass(frozen=True, kw_only=True)
class Trend:
    """How a metric changed over the steps, and whether that is more than noise."""

    first: float
    """Mean of the first quarter."""
    last: float
    """Mean of the last quarter."""
    tau: float
    """Kendall's τ against the step (Mann 1945); 0 if nothing varies."""
    p_value: float
    """Two-sided p-value of τ, corrected for steps that resemble those before them; 1 if nothing varies."""

    @property
    def rises(self) -> bool:
        """Whether it rises by more than chance explains."""
        return self.p_value < 1 - CONFIDENCE and self.tau > 0 and self.last > self.first

    @classmethod
    def of(cls, values: Sequence[float]) -> "Trend":
        """The trend of at least one value, one per step."""
        quarter = max(1, len(values) // 4)
        tau, p_value = 0.0, 1.0
        if len(set(values)) > 1:
            found = kendalltau(range(len(values)), values)
            tau = float(found.statistic)
            deviations = norm.isf(found.pvalue / 2) / _inflation(values, rises=tau > 0) ** 0.5
            p_value = float(2 * norm.sf(deviations))
        return cls(
            first=float(np.mean(values[:quarter])),
            last=float(np.mean(values[-quarter:])),
            tau=tau,
            p_value=p_value,
        )


def _inflation(values: Sequence[float], *, rises: bool) -> float:
    """The factor by which the variance of a statistic such as τ grows because steps resemble those before them.

    It is ``(1 + ρ)/(1 − ρ)`` with the lag-1 autocorrelation ρ, for steps that are an AR(1) process (Bayley and
    Hammersley 1946; Yue and Wang 2004 for τ). The estimate of ρ is corrected for its bias ``−(2 + 4ρ)/n`` (Kendall
    1954), and is made from the residuals of a monotone fit, so that a trend of any shape does not add to it.
    """
    num = len(values)
    if num < _FEWEST_FOR_AUTOCORRELATION:
        return 1.0
    rest = np.asarray(values) - isotonic_regression(values, increasing=rises).x
    rest -= rest.mean()
    if not (squares := float(rest @ rest)):
        return 1.0
    rho = float(rest[:-1] @ rest[1:]) / squares
    rho = min(max(rho + (2 + 4 * rho) / num, 0.0), _MOST_AUTOCORRELATION)
    return (1 + rho) / (1 - rho)
