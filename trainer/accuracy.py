"""What an evaluation found: accuracies and their differences, with intervals, as a file and a table.

Enters: the answers of each model to the same questions. Unknown here: how they were got.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.stats import binomtest

from regime_w import answers_agree, extract_answer

EVALUATION_FILE = "evaluation.json"
"""Where a run's folder holds its evaluation; the report shows it."""

_CONFIDENCE = 0.95
_NUM_RESAMPLES = 10_000
_BOOTSTRAP_SEED = 0


class _Result(BaseModel):
    """Part of ``evaluation.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EvaluatedQuestion(_Result):
    """One question that every model was asked."""

    id: str
    question: str
    gold: str


class Answer(_Result):
    """What one model said to one question."""

    text: str
    answer: str | None
    """Canonical; null where the text gives none."""
    correct: bool

    @classmethod
    def of(cls, text: str, gold: str) -> Self:
        """Read the answer in a completion and compare it with the one in the gold solution."""
        answer = extract_answer(text)
        return cls(text=text, answer=answer, correct=answers_agree(answer, extract_answer(gold)))


class ModelResult(_Result):
    """One model's answers and what they add up to."""

    label: str
    model: str
    """The server's name of what was asked, or the adapter folder."""
    num_correct: int
    num_questions: int
    accuracy: float
    low: float
    """Lower end of the 95% Wilson interval of `accuracy`."""
    high: float
    """Upper end."""
    answered: float
    """Share of the questions with an answer, right or wrong."""
    answers: tuple[Answer, ...]
    """In the order of `Evaluation.questions`."""

    @classmethod
    def of(cls, *, label: str, model: str, answers: Sequence[Answer]) -> Self:
        """Add up at least one answer."""
        num_correct = sum(answer.correct for answer in answers)
        low, high = wilson_interval(num_correct, len(answers))
        return cls(
            label=label,
            model=model,
            num_correct=num_correct,
            num_questions=len(answers),
            accuracy=num_correct / len(answers),
            low=low,
            high=high,
            answered=sum(answer.answer is not None for answer in answers) / len(answers),
            answers=tuple(answers),
        )

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Label, accuracy, interval and answered share, as tables show them."""
        interval = f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return self.label, f"{self.accuracy:.1%}", interval, f"{self.answered:.1%}"


class PairedDifference(_Result):
    """How much better one model is than an earlier one on the same questions."""

    label: str
    baseline: str
    points: float
    """Accuracy of `label` minus accuracy of `baseline`, in percentage points."""
    low: float
    """Lower end of the 95% paired bootstrap interval of `points`."""
    high: float
    """Upper end."""

    @classmethod
    def of(cls, *, baseline: ModelResult, model: ModelResult) -> Self:
        """Compare two models question by question."""
        low, high = paired_bootstrap_interval(_gains(baseline, model))
        return cls(
            label=model.label,
            baseline=baseline.label,
            points=100 * (model.num_correct - baseline.num_correct) / model.num_questions,
            low=100 * low,
            high=100 * high,
        )

    @property
    def cells(self) -> tuple[str, str, str]:
        """Name, points and interval, as tables show them."""
        interval = f"[{_signed(self.low)}, {_signed(self.high)}]"
        return f"{self.label} − {self.baseline}", f"{_signed(self.points)} points", interval


class Evaluation(_Result):
    """Everything that was measured, and on what; ``evaluation.json`` holds one."""

    base_model: str
    data: str
    data_seed: int
    arm: str
    max_tokens: int
    questions: tuple[EvaluatedQuestion, ...]
    models: tuple[ModelResult, ...]
    """In the order that was asked for."""
    differences: tuple[PairedDifference, ...]
    """Each model against each earlier one."""

    @property
    def summary(self) -> str:
        """One line on what was asked, and how."""
        return (
            f"{len(self.questions)} held-out questions of {self.data}, greedy, "
            f"prompt of {self.arm}, at most {self.max_tokens} tokens"
        )

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


def wilson_interval(num_correct: int, num_questions: int) -> tuple[float, float]:
    """The 95% score interval of a share p = num_correct / n.

    ``(p + z²/2n ± z sqrt(p(1 − p)/n + z²/4n²)) / (1 + z²/n)`` with z = 1.96 (Wilson 1927). Unlike
    ``p ± z·se`` it stays within [0, 1] and keeps a width at 0 and at n right answers.
    """
    interval = binomtest(num_correct, num_questions).proportion_ci(_CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def paired_bootstrap_interval(gains: Sequence[int]) -> tuple[float, float]:
    """The 95% percentile interval of the mean of per-question gains.

    Both models' answers to a question are resampled together, so what makes a question hard for
    both cancels (Efron and Tibshirani 1993, §13.3; Koehn 2004 compares systems like this).

    Args:
        gains: 1 for each question that the model won, -1 that it lost, 0 that changed nothing.
    """
    # Drawing questions with replacement draws the three counts from a multinomial: the same
    # distribution without 10,000 index arrays.
    counts = np.array([gains.count(1), gains.count(-1), gains.count(0)])
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    won, lost, _ = rng.multinomial(len(gains), counts / len(gains), size=_NUM_RESAMPLES).T
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(won - lost, (tail, 1 - tail))
    return float(low) / len(gains), float(high) / len(gains)


def format_table(evaluation: Evaluation) -> Table:
    """A row a model, then a row a difference; labels are never read as markup."""
    table = Table(box=box.SIMPLE)
    table.add_column("Model", no_wrap=True)
    for heading in ("Accuracy", "95% interval", "Answered"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in evaluation.models:
        table.add_row(*map(Text, model.cells))
    table.add_section()
    for difference in evaluation.differences:
        table.add_row(*map(Text, difference.cells))
    return table


def print_table(evaluation: Evaluation, console: Console) -> None:
    """Print what was asked and the table; in a file or a pipe no line is wrapped or cut."""
    console.print(evaluation.summary, markup=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        # rich assumes 80 columns there and would cut cells; a table is no wider than its content.
        console = Console(file=console.file, width=10_000)
    console.print(format_table(evaluation))


def _gains(baseline: ModelResult, model: ModelResult) -> list[int]:
    pairs = zip(baseline.answers, model.answers, strict=True)
    return [int(new.correct) - int(old.correct) for old, new in pairs]


def _signed(points: float) -> str:
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(points, 1) + 0.0:+.1f}"
