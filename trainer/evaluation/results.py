"""The result of an evaluation: accuracies and their differences, with intervals and tests.

Input: each model's answers to the same questions. Output: ``evaluation.json``, which the tables and
the report show.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, Self

from inference_server.wire.prompt_options import PromptFormat, StopStrings
from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.named import answer_type_of
from trainer.evaluation.arms_results import ArmsResult, CompletionStats, Estimate
from trainer.evaluation.candidates import EvaluatedModel
from trainer.evaluation.records import ArmsAnswer, EvaluationPart, QuestionAnswers
from trainer.evaluation.statistics import mcnemar_p_value, paired_interval
from trainer.io.durable import write_file
from trainer.io.paths import read_plain

EVALUATION_FILE = "evaluation.json"
"""Name of the evaluation in a run's folder, where the report reads it."""

Measure = Literal["greedy", "pass@1", "maj"]
"""What is compared: greedy answers, the mean over the arms' completions, or the arms' consensus."""


class ModelResult(EvaluationPart):
    """The results of one model."""

    label: str
    model: str
    """The served model's name, or the adapter folder."""
    adapter_sha256: str | None
    """SHA-256 of the adapter's weights file, in hex; null for the base model."""
    accuracy: Estimate
    """Accuracy of the greedy answers, wherever the text gives them (lenient)."""
    strict: Estimate
    """Accuracy that counts only answers stated after ``####`` or in a box (strict)."""
    completions: CompletionStats
    """Averages over the greedy completions."""
    arms: ArmsResult | None
    """Null if the arms were not sampled."""

    @classmethod
    def of(cls, label: str, model: EvaluatedModel, questions: Sequence[QuestionAnswers]) -> Self:
        """Aggregate at least one question."""
        answers = [q.models[label] for q in questions]
        greedy = [answer.greedy for answer in answers]
        strict = [
            answer.strictly_correct(answer_type_of(question.answer_type))
            for question, answer in zip(questions, greedy, strict=True)
        ]
        arms = [answer.arms for answer in answers if answer.arms is not None]
        return cls(
            label=label,
            model=model.name,
            adapter_sha256=model.adapter_sha256,
            accuracy=Estimate.of([float(answer.correct) for answer in greedy]),
            strict=Estimate.of(list(map(float, strict))),
            completions=CompletionStats.of(greedy),
            arms=ArmsResult.of(arms) if arms else None,
        )


class PairedDifference(EvaluationPart):
    """How much better a model is than an earlier one on the same questions."""

    label: str
    baseline: str
    measure: Measure
    points: float
    """Accuracy of `label` minus that of `baseline`, in percentage points."""
    low: float
    """Lower end of the 95% interval of `points`; see `paired_interval`."""
    high: float
    """Upper end."""
    num_won: int
    """Questions on which `label` does better."""
    num_lost: int
    """Questions on which it does worse."""
    p_value: float | None
    """McNemar's exact test; null for ``pass@1``, where a question has more outcomes than two."""

    @classmethod
    def of(
        cls, *, label: str, baseline: str, measure: Measure, questions: Sequence[QuestionAnswers]
    ) -> Self:
        """Compare two models question by question."""
        value = _MEASURES[measure]
        gains = [value(q, label) - value(q, baseline) for q in questions]
        num_won, num_lost = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
        low, high = paired_interval(gains)
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
        raise ValueError(f"the arms of {label} were not sampled")
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
    base_fingerprint: str | None
    """The server's; null if it is not known."""
    data: str
    data_seed: int
    num_questions: int
    arm: str
    """The arm whose system prompt the greedy answers used."""
    samples_per_arm: int
    """Completions of each arm; 0 for greedy answers only."""
    seed: int
    """Seed of the arms' sampling."""
    max_tokens: int
    answer_type: AnswerTypeName
    prompt_format: PromptFormat
    stop: StopStrings
    models: tuple[ModelResult, ...]
    """In the configured order."""
    differences: tuple[PairedDifference, ...]
    """Each model against each earlier one, by every measure."""

    @property
    def summary(self) -> str:
        """The questions and the way of asking, in one line."""
        arms = self.models[0].arms
        sampled = f" and {arms.num_completions} completions by arms" if arms else ""
        return (
            f"{self.num_questions} held-out questions of {self.data}, greedy{sampled}, "
            f"{'chat ' * (self.prompt_format == 'chat')}prompt of {self.arm}, at most {self.max_tokens} tokens"
        )

    def difference(self, label: str, baseline: str) -> PairedDifference | None:
        """Difference in greedy accuracy to an earlier model; None if the two were not compared."""
        for found in self.differences:
            if (found.label, found.baseline, found.measure) == (label, baseline, "greedy"):
                return found
        return None

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        write_file(path, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            ValidationError: The file is not an evaluation.
        """
        return cls.model_validate_json(read_plain(path))


def is_evaluation(path: Path) -> bool:
    """Whether a file is what `Evaluation.write` wrote."""
    try:
        Evaluation.read(path)
    except (OSError, ValueError):
        return False
    return True


def compare_all(
    labels: Sequence[str], questions: Sequence[QuestionAnswers]
) -> tuple[PairedDifference, ...]:
    """Compare each model with each earlier one, by every measure there are answers for."""
    has_arms = questions[0].models[labels[0]].arms is not None
    measures: tuple[Measure, ...] = ("greedy", "pass@1", "maj") if has_arms else ("greedy",)
    return tuple(
        PairedDifference.of(label=later, baseline=earlier, measure=measure, questions=questions)
        for measure in measures
        for earlier, later in combinations(labels, 2)
    )
