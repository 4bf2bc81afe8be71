"""Whether a score knows when it is right: coherence held against correctness, a question each."""

from collections.abc import Sequence
from typing import Self

from trainer.evaluation.records import EvaluationPart
from trainer.evaluation.statistics import auc, auc_interval, wilson_interval

NUM_BINS = 10


class ReliabilityBin(EvaluationPart):
    """The questions whose score falls into one tenth of [0, 1]."""

    num_questions: int
    mean_score: float
    share_correct: float
    low: float
    """Lower end of the 95% Wilson interval of `share_correct`."""
    high: float
    """Upper end."""


class Calibration(EvaluationPart):
    """How well a score in [0, 1] tells right questions from wrong ones."""

    auc: float | None
    """The chance that a right question scores above a wrong one; 0.5 knows nothing. Null where all
    are right or all are wrong."""
    low: float | None
    """Lower end of the 95% bootstrap interval of `auc`."""
    high: float | None
    """Upper end."""
    bins: tuple[ReliabilityBin, ...]
    """By rising score; empty ones are left out."""

    @classmethod
    def of(cls, scores: Sequence[float | None], correct: Sequence[bool]) -> Self:
        """Hold scores against correctness; questions without a score are left out."""
        pairs = [(s, c) for s, c in zip(scores, correct, strict=True) if s is not None]
        known = [score for score, _ in pairs]
        right = [is_right for _, is_right in pairs]
        low, high = (auc_interval(known, right) if pairs else None) or (None, None)
        return cls(
            auc=auc(known, right) if pairs else None,
            low=low,
            high=high,
            bins=tuple(
                _bin([pair for pair in pairs if _place(pair[0]) == place])
                for place in sorted({_place(score) for score in known})
            ),
        )


def _place(score: float) -> int:
    return min(int(score * NUM_BINS), NUM_BINS - 1)


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
