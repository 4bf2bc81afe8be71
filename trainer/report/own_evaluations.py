"""What a run's own evaluations (``run.evaluate_every``) say: its first against its newest.

Input: a run's metrics. Output: accuracies, their intervals, and the interval of their difference.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from trainer.evaluation.statistics import difference_interval, wilson_interval
from trainer.evaluation.tables import signed
from trainer.io.metrics_file import Metrics


@dataclass(frozen=True, kw_only=True)
class OwnEvaluation:
    """Greedy accuracy of one version on the run's held-out questions."""

    step: int
    """The step after which the version was published; 0 is the run's start."""
    num_correct: int
    num_questions: int

    @property
    def counts(self) -> tuple[int, int]:
        """Correct answers and questions."""
        return self.num_correct, self.num_questions

    @property
    def accuracy(self) -> float:
        """Share of correct answers."""
        return self.num_correct / self.num_questions

    @property
    def when(self) -> str:
        """``at step 20``, or ``at the start``."""
        return f"at step {self.step}" if self.step else "at the start"

    def __str__(self) -> str:
        """``72.0% [65.4, 77.8] at the start``."""
        low, high = wilson_interval(*self.counts)
        return f"{self.accuracy:.1%} [{100 * low:.1f}, {100 * high:.1f}] {self.when}"


def own_evaluations(measured: Iterable[Metrics]) -> list[OwnEvaluation]:
    """The evaluations in a run's metrics, by step."""
    found = [
        OwnEvaluation(
            step=int(row.get("eval/step", row["step"])),
            num_correct=round(min(max(row["eval/accuracy"], 0.0), 1.0) * num),
            num_questions=num,
        )
        for row in measured
        if (num := int(row.get("eval/num_questions", 0))) > 0
    ]
    return sorted(found, key=lambda evaluation: evaluation.step)


@dataclass(frozen=True, kw_only=True)
class Change:
    """The change of accuracy from a run's first evaluation to its newest, in percentage points."""

    first: OwnEvaluation
    newest: OwnEvaluation
    best: OwnEvaluation
    """The first of the most accurate."""
    low: float
    """Lower end of the interval; see `difference_interval`."""
    high: float

    @classmethod
    def of(cls, evaluations: list[OwnEvaluation]) -> "Change":
        """The change over at least two evaluations."""
        first, newest = evaluations[0], evaluations[-1]
        low, high = difference_interval(newest.counts, first.counts)
        best = max(evaluations, key=lambda evaluation: evaluation.accuracy)
        return cls(first=first, newest=newest, best=best, low=100 * low, high=100 * high)

    @property
    def evidence(self) -> str:
        """The accuracies and their difference, in a sentence or two."""
        first, newest, best = self.first, self.newest, self.best
        numbers = sorted({first.num_questions, newest.num_questions})
        gained = (
            f"{signed(100 * (newest.accuracy - first.accuracy))} points "
            f"[{signed(self.low)}, {signed(self.high)}]"
        )
        said = (
            f"Held-out accuracy went from {first} to {newest}, of {' and '.join(map(str, numbers))} questions: "
            f"{gained}, by the run's own evaluations."
        )
        if best not in (first, newest):
            said += f" The best was {best.accuracy:.1%} {best.when}."
        return said
