"""The questions on which two evaluated models differ, side by side in the terminal.

Input: an evaluation's answers file. Output: text.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.config.safe_text import safe_text, shortened
from trainer.errors import UsageError
from trainer.evaluation.records import Answer, QuestionAnswers, answers_path, read_answers
from trainer.evaluation.results import EVALUATION_FILE


def print_diff(evaluation: Path, baseline: str | None, model: str | None, *, limit: int) -> None:
    """Print the questions that only one of two models answers correctly (greedy answers).

    Args:
        evaluation: The file that ``eval --output`` named, or the folder with an evaluation.json.
        baseline: Label of the first model; None means the last but one.
        model: Label of the second; None means the last.
        limit: Most questions to show of those that the second model wins, and as many of those that it loses.

    Raises:
        UsageError: There is no such file, not all of its questions were asked of the same models, a label is not in
            it, or only one model was evaluated.
    """
    file = evaluation / EVALUATION_FILE if evaluation.is_dir() else evaluation
    questions = list(read_answers(answers_path(file)))
    labels = list(questions[0].models) if questions else []
    if (other := next((q for q in questions if q.models.keys() != {*labels}), None)) is not None:
        raise UsageError(
            f"{answers_path(file)}: {shortened(other.id)} was asked of {shortened(', '.join(other.models))}, "
            f"and the first question of {shortened(', '.join(labels))}; evaluate again"
        )
    if len(labels) < 2:
        raise UsageError(f"{file}: a difference needs two evaluated models; it has {len(labels)}")
    baseline, model = baseline or labels[-2], model or labels[-1]
    for label in (baseline, model):
        if label not in labels:
            raise UsageError(f"{label!r} is not one of the evaluated models: {', '.join(labels)}")
    won = [q for q in questions if _gain(q, baseline, model) > 0]
    lost = [q for q in questions if _gain(q, baseline, model) < 0]
    console = Console()
    for name, found in (
        (f"{model} right, {baseline} wrong", won),
        (f"{model} wrong, {baseline} right", lost),
    ):
        console.print(
            f"{name}: {len(found)} of {len(questions)} questions",
            markup=False,
            emoji=False,
            highlight=False,
        )
        if found and limit:
            console.print(_side_by_side(list(islice(found, limit)), baseline, model))


def _gain(question: QuestionAnswers, baseline: str, model: str) -> int:
    return int(question.models[model].greedy.correct) - int(
        question.models[baseline].greedy.correct
    )


def _side_by_side(questions: Sequence[QuestionAnswers], baseline: str, model: str) -> Table:
    """The table; text of models and data is never read as markup."""
    table = Table(box=box.SIMPLE, show_lines=True)
    for heading in ("question", baseline, model):
        table.add_column(Text(heading), ratio=1)
    for question in questions:
        answers = (question.models[label].greedy for label in (baseline, model))
        asked = (
            f"{question.id}\n{question.question}\n→ {question.gold.rsplit('####', 1)[-1].strip()}"
        )
        table.add_row(Text(safe_text(asked)), *(Text(safe_text(_shown(a))) for a in answers))
    return table


def _shown(answer: Answer) -> str:
    mark = "✓" if answer.correct else "✗"
    return f"{answer.text.strip()}\n{mark} {answer.answer or 'no answer'}"
