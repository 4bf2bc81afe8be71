"""What an evaluation found: accuracies and their differences, with intervals and tests.

Enters: the answers of each model to the same questions. Leaves: ``evaluation.json``, which tables and
the report show.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, Self

from trainer.evaluation.calibration import Calibration
from trainer.evaluation.records import Answer, ArmsAnswer, EvaluationPart, QuestionAnswers
from trainer.evaluation.statistics import (
    bootstrap_interval,
    mcnemar_p_value,
    mean_interval,
    pass_at_k,
)

EVALUATION_FILE = "evaluation.json"
"""Where a run's folder holds its evaluation; the report shows it."""

Measure = Literal["greedy", "pass@1", "maj"]
"""What is compared: greedy answers, the mean over the arms' completions, or the arms' consensus."""


class Estimate(EvaluationPart):
    """A mean over questions."""

    value: float
    low: float
    """Lower end of its 95% interval: Wilson's where a question is right or wrong, else the
    bootstrap's over questions."""
    high: float
    """Upper end."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Average one value a question."""
        low, high = mean_interval(values)
        return cls(value=sum(values) / len(values), low=low, high=high)


class Completions(EvaluationPart):
    """What completions are like, right or wrong."""

    answered: float
    """Share with an answer."""
    truncated: float
    """Share that the token limit ended."""
    mean_tokens: float

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Self:
        """Average at least one."""
        return cls(
            answered=sum(a.answer is not None for a in answers) / len(answers),
            truncated=sum(a.truncated for a in answers) / len(answers),
            mean_tokens=sum(a.num_tokens for a in answers) / len(answers),
        )


class ArmResult(EvaluationPart):
    """One arm of one model."""

    arm: str
    accuracy: Estimate
    completions: Completions


class PassAtK(EvaluationPart):
    """The chance that one of k completions is right."""

    k: int
    chance: Estimate


class ArmsResult(EvaluationPart):
    """All arms of one model."""

    completions: Completions
    num_completions: int
    """Of a question."""
    pass_at: tuple[PassAtK, ...]
    """For k = 1, 2, 4, … up to `num_completions`; k = 1 is the mean accuracy."""
    consensus: Estimate
    """Accuracy of the most frequent answer: maj@`num_completions`."""
    by_arm: tuple[ArmResult, ...]
    scores: dict[str, float]
    """Mean of each Regime W score over the questions where it does not abstain; none knows the gold
    answers."""
    calibration: Calibration
    """Of s_wm against the correctness of the consensus."""

    @classmethod
    def of(cls, questions: Sequence[ArmsAnswer]) -> Self:
        """Add up at least one question."""
        completions = [c for question in questions for c in question.completions]
        num_completions = len(questions[0].completions)
        names = dict.fromkeys(c.arm for c in completions)
        scores = {
            name: [s for q in questions if (s := getattr(q, name)) is not None]
            for name in ("s_end", "s_path", "s_cf", "s_wm")
        }
        return cls(
            completions=Completions.of(completions),
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
        completions=Completions.of([c for cs in by_question for c in cs]),
    )


def _powers_of_two(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length())]


class ModelResult(EvaluationPart):
    """One model's answers and what they add up to."""

    label: str
    model: str
    """The server's name of what was asked, or the adapter folder."""
    accuracy: Estimate
    """Greedy."""
    completions: Completions
    """The greedy ones."""
    arms: ArmsResult | None
    """Null where the arms were not asked."""

    @classmethod
    def of(cls, label: str, model: str, questions: Sequence[QuestionAnswers]) -> Self:
        """Add up at least one question."""
        answers = [q.models[label] for q in questions]
        greedy = [answer.greedy for answer in answers]
        arms = [answer.arms for answer in answers if answer.arms is not None]
        return cls(
            label=label,
            model=model,
            accuracy=Estimate.of([float(answer.correct) for answer in greedy]),
            completions=Completions.of(greedy),
            arms=ArmsResult.of(arms) if arms else None,
        )


class PairedDifference(EvaluationPart):
    """How much better one model is than an earlier one on the same questions."""

    label: str
    baseline: str
    measure: Measure
    points: float
    """Of `label` less `baseline`, in percentage points."""
    low: float
    """Lower end of the 95% paired bootstrap interval of `points`."""
    high: float
    """Upper end."""
    num_won: int
    """Questions on which `label` does better."""
    num_lost: int
    """Questions on which it does worse."""
    p_value: float | None
    """McNemar's exact test; null for ``pass@1``, where a question is more than right or wrong."""

    @classmethod
    def of(
        cls, *, label: str, baseline: str, measure: Measure, questions: Sequence[QuestionAnswers]
    ) -> Self:
        """Compare two models question by question."""
        value = _MEASURES[measure]
        gains = [value(q, label) - value(q, baseline) for q in questions]
        low, high = bootstrap_interval(gains)
        num_won, num_lost = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
        return cls(
            label=label,
            baseline=baseline,
            measure=measure,
            points=100 * sum(gains) / len(gains),
            low=100 * low,
            high=100 * high,
            num_won=num_won,
            num_lost=num_lost,
            p_value=None if measure == "pass@1" else mcnemar_p_value(num_won, num_lost),
        )


def _arms_of(question: QuestionAnswers, label: str) -> ArmsAnswer:
    arms = question.models[label].arms
    if arms is None:
        raise ValueError(f"the arms of {label} were not asked")
    return arms


def _mean_correct(question: QuestionAnswers, label: str) -> float:
    arms = _arms_of(question, label)
    return arms.num_correct / len(arms.completions)


_MEASURES: dict[Measure, Callable[[QuestionAnswers, str], float]] = {
    "greedy": lambda question, label: float(question.models[label].greedy.correct),
    "pass@1": _mean_correct,
    "maj": lambda question, label: float(_arms_of(question, label).consensus_correct),
}


class Evaluation(EvaluationPart):
    """Everything that was measured, and on what; ``evaluation.json`` holds one."""

    base_model: str
    data: str
    data_seed: int
    num_questions: int
    arm: str
    """Whose system prompt the greedy answers got."""
    samples_per_arm: int
    """0 where greedy answers alone were asked for."""
    seed: int
    """Of the arms' sampling."""
    max_tokens: int
    models: tuple[ModelResult, ...]
    """In the order that was asked for."""
    differences: tuple[PairedDifference, ...]
    """Each model against each earlier one, by every measure."""

    @property
    def summary(self) -> str:
        """One line on what was asked, and how."""
        arms = self.models[0].arms
        sampled = f" and {arms.num_completions} completions by arms" if arms else ""
        return (
            f"{self.num_questions} held-out questions of {self.data}, greedy{sampled}, "
            f"prompt of {self.arm}, at most {self.max_tokens} tokens"
        )

    def difference(self, label: str, baseline: str) -> PairedDifference | None:
        """Greedy accuracy of one model less that of an earlier one."""
        for found in self.differences:
            if (found.label, found.baseline, found.measure) == (label, baseline, "greedy"):
                return found
        return None

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            ValidationError: It is something else.
        """
        return cls.model_validate_json(path.read_bytes())


def compare_all(
    labels: Sequence[str], questions: Sequence[QuestionAnswers]
) -> tuple[PairedDifference, ...]:
    """Each model against each earlier one, by every measure that was asked for."""
    has_arms = questions[0].models[labels[0]].arms is not None
    measures: tuple[Measure, ...] = ("greedy", "pass@1", "maj") if has_arms else ("greedy",)
    return tuple(
        PairedDifference.of(label=later, baseline=earlier, measure=measure, questions=questions)
        for measure in measures
        for earlier, later in combinations(labels, 2)
    )
