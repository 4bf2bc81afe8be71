"""Measures how well a score, such as coherence, predicts whether a question is answered correctly."""

from collections.abc import Sequence
from typing import Self

from trainer.evaluation.records import EvaluationPart
from trainer.evaluation.statistics import auc, auc_interval, wilson_interval

NUM_BINS = 10


class ReliabilityBin(EvaluationPart):
    """The questions whose score lies in one tenth of [0, 1]."""

    num_questions: int
    mean_score: float
    share_correct: float
    low: float
    """Lower end of the 95% Wilson interval of `share_correct`."""
    high: float
    """Upper end."""


class Calibration(EvaluationPart):
    """How well a score in [0, 1] separates correct questions from wrong ones."""

    auc: float | None
    """Probability that a correct question scores above a wrong one; 0.5 is chance. Null if all are
    correct or all are wrong."""
    low: float | None
    """Lower end of the 95% bootstrap interval of `auc`."""
    high: float | None
    """Upper end."""
    bins: tuple[ReliabilityBin, ...]
    """By rising score; empty bins are left out."""

    @classmethod
    def of(cls, scores: Sequence[float | None], correct: Sequence[bool]) -> Self:
        """Compare scores with correctness; questions without a score are left out."""
        pairs = [(s, c) for s, c in zip(scores, correct, strict=True) if s is not None]
        known = [score for score, _ in pairs]
        right = [is_right for _, is_right in pairs]
        low, high = auc_interval(known, right) or (None, None)
        bins: dict[int, list[tuple[float, bool]]] = {}
        for pair in pairs:
            bins.setdefault(min(int(pair[0] * NUM_BINS), NUM_BINS - 1), []).append(pair)
        return cls(
            auc=auc(known, right),
            low=low,
            high=high,
            bins=tuple(_bin(bins[index]) for index in sorted(bins)),
        )


def _bin(pairs: Sequence[tuple[float, bool]]) -> ReliabilityBin:
    num_correct = sum(is_right for _, is_right in pairs)
    low, high = wilson_interval(num_correct, len(pairs))
    return ReliabilityBin(
        num_questions=len(pairs),
        mean_score=sum(score for score, _ in pairs) / len(pairs),
        share_correct=num_correct / len(pairs),
        low=low,
        high=high,
    )
