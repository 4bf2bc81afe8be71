"""Means over questions with their intervals, and one model's results over all arms.

Input: answers of `trainer.evaluation.records`. Output: parts of ``evaluation.json``.
"""

from collections.abc import Sequence
from typing import Self

from trainer.evaluation.calibration import Calibration
from trainer.evaluation.records import Answer, ArmsAnswer, EvaluationPart
from trainer.evaluation.statistics import mean_interval, pass_at_k


class Estimate(EvaluationPart):
    """A mean over questions with its interval."""

    value: float
    low: float
    """Lower end of its 95% interval; see `mean_interval`."""
    high: float
    """Upper end."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Average one value per question."""
        low, high = mean_interval(values)
        return cls(value=sum(values) / len(values), low=low, high=high)


class CompletionStats(EvaluationPart):
    """Averages over completions, whether correct or wrong."""

    answered: float
    """Share of completions with an answer."""
    truncated: float
    """Share of completions that hit the token limit."""
    mean_tokens: float
    """Mean length, EOS included."""

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Self:
        """Average at least one answer."""
        return cls(
            answered=sum(a.answer is not None for a in answers) / len(answers),
            truncated=sum(a.truncated for a in answers) / len(answers),
            mean_tokens=sum(a.num_tokens for a in answers) / len(answers),
        )


class ArmResult(EvaluationPart):
    """One arm of one model."""

    arm: str
    accuracy: Estimate
    completions: CompletionStats


class PassAtK(EvaluationPart):
    """Probability that one of k completions is correct."""

    k: int
    chance: Estimate


class ArmsResult(EvaluationPart):
    """All arms of one model."""

    completions: CompletionStats
    num_completions: int
    """Completions of each question."""
    pass_at: tuple[PassAtK, ...]
    """For k = 1, 2, 4, … up to `num_completions`; k = 1 is the mean accuracy."""
    consensus: Estimate
    """Accuracy of the most frequent answer: maj@`num_completions`."""
    by_arm: tuple[ArmResult, ...]
    scores: dict[str, float]
    """Mean of each Regime W score over the questions where it does not abstain. The scores are
    computed without the gold answers."""
    calibration: Calibration
    """Calibration of s_wm against the correctness of the consensus."""

    @classmethod
    def of(cls, questions: Sequence[ArmsAnswer]) -> Self:
        """Aggregate at least one question."""
        completions = [c for question in questions for c in question.completions]
        num_completions = len(questions[0].completions)
        names = dict.fromkeys(c.arm for c in completions)
        scores = {
            name: [s for q in questions if (s := getattr(q, name)) is not None]
            for name in ("s_end", "s_path", "s_cf", "s_wm")
        }
        return cls(
            completions=CompletionStats.of(completions),
            num_completions=num_completions,
            pass_at=tuple(
                PassAtK(
                    k=k,
                    chance=Estimate.of(
                        [pass_at_k(num_completions, q.num_correct, k) for q in questions]
                    ),
                )
                for k in _powers_of_two(num_completions)
            ),
            consensus=Estimate.of([float(q.consensus_correct) for q in questions]),
            by_arm=tuple(_arm_result(name, questions) for name in names),
            scores={name: sum(found) / len(found) for name, found in scores.items() if found},
            calibration=Calibration.of(
                [q.s_wm for q in questions], [q.consensus_correct for q in questions]
            ),
        )


def _arm_result(arm: str, questions: Sequence[ArmsAnswer]) -> ArmResult:
    by_question = [[c for c in q.completions if c.arm == arm] for q in questions]
    return ArmResult(
        arm=arm,
        accuracy=Estimate.of([sum(c.correct for c in cs) / len(cs) for cs in by_question]),
        completions=CompletionStats.of([c for cs in by_question for c in cs]),
    )


def _powers_of_two(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length())]
