"""An evaluation as tables of text, for the terminal and for the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.console.terminal import print_line
from trainer.evaluation.arms_results import ArmsResult, Estimate
from trainer.evaluation.calibration import Calibration
from trainer.evaluation.results import Evaluation, ModelResult, PairedDifference

_SMALLEST_P = 1e-4


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of text; the first column holds the names of the rows."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(evaluation: Evaluation) -> list[TextTable]:
    """Greedy accuracy, differences, and the results over the arms if they were sampled."""
    tables = [
        TextTable(
            caption="Greedy accuracy, 95% Wilson interval",
            headings=(
                "Model",
                "Accuracy",
                "95% interval",
                "Strict",
                "Answered",
                "Truncated",
                "Tokens",
            ),
            rows=tuple(map(_greedy_row, evaluation.models)),
        )
    ]
    if evaluation.differences:
        tables.append(
            TextTable(
                caption="Paired by question: 95% interval, McNemar's exact test",
                headings=("Difference", "Points", "95% interval", "Won", "Lost", "p"),
                rows=tuple(_difference_row(evaluation, d) for d in evaluation.differences),
            )
        )
    with_arms = [(model.label, model.arms) for model in evaluation.models if model.arms is not None]
    if with_arms:
        headings = tuple(label for label, _ in with_arms)
        results = [arms for _, arms in with_arms]
        tables += [
            TextTable(
                caption="Over the arms; coherence is s_wm, computed without the gold answers; its AUC "
                "measures how well it separates a correct consensus from a wrong one",
                headings=("", *headings),
                rows=tuple(_arms_rows(results)),
            ),
            TextTable(
                caption="Accuracy by arm",
                headings=("Arm", *headings),
                rows=tuple(
                    (arm.arm, *(with_interval(r.by_arm[index].accuracy) for r in results))
                    for index, arm in enumerate(results[0].by_arm)
                ),
            ),
        ]
    return tables


def _greedy_row(model: ModelResult) -> tuple[str, ...]:
    accuracy, completions = model.accuracy, model.completions
    return (
        model.label,
        f"{accuracy.value:.1%}",
        f"[{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]",
        f"{model.strict.value:.1%}",
        f"{completions.answered:.1%}",
        f"{completions.truncated:.1%}",
        f"{completions.mean_tokens:.1f}",
    )


def _difference_row(evaluation: Evaluation, difference: PairedDifference) -> tuple[str, ...]:
    measure = {
        "greedy": "",
        "pass@1": ", pass@1",
        "maj": f", maj@{_num_completions(evaluation)}",
    }[difference.measure]
    return (
        f"{difference.label} − {difference.baseline}{measure}",
        signed(difference.points),
        f"[{signed(difference.low)}, {signed(difference.high)}]",
        str(difference.num_won),
        str(difference.num_lost),
        "" if difference.p_value is None else p_value(difference.p_value),
    )


def _num_completions(evaluation: Evaluation) -> int:
    return max((m.arms.num_completions for m in evaluation.models if m.arms is not None), default=0)


def _arms_rows(results: Sequence[ArmsResult]) -> list[tuple[str, ...]]:
    def row(name: str, cell: Callable[[ArmsResult], str]) -> tuple[str, ...]:
        return (name, *map(cell, results))

    passes = [
        (f"pass@{at.k}", *(with_interval(r.pass_at[index].chance) for r in results))
        for index, at in enumerate(results[0].pass_at)
    ]
    return [
        *passes,
        row(f"maj@{results[0].num_completions}", lambda r: with_interval(r.consensus)),
        row("coherence", lambda r: f"{r.scores['s_wm']:.3f}" if "s_wm" in r.scores else "–"),
        row("AUC of coherence", lambda r: _auc(r.calibration)),
        row("answered", lambda r: f"{r.completions.answered:.1%}"),
        row("truncated", lambda r: f"{r.completions.truncated:.1%}"),
        row("tokens", lambda r: f"{r.completions.mean_tokens:.1f}"),
    ]


def with_interval(estimate: Estimate) -> str:
    """``90.2% [86.9, 92.8]``."""
    return f"{estimate.value:.1%} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _auc(found: Calibration) -> str:
    if found.auc is None or found.low is None or found.high is None:
        return "–"
    return f"{found.auc:.3f} [{found.low:.3f}, {found.high:.3f}]"


def signed(points: float) -> str:
    """``+19.8``; never ``-0.0``."""
    return f"{round(points, 1) + 0.0:+.1f}"


def p_value(value: float) -> str:
    """Two significant digits, or a bound if that would show zero."""
    return f"<{_SMALLEST_P:.4f}" if value < _SMALLEST_P else f"{value:.2g}"


def print_table(evaluation: Evaluation, console: Console) -> None:
    """Print the summary and the tables; in a file or a pipe no line is wrapped or cut."""
    print_line(console, evaluation.summary)
    if not console.is_terminal:
        # rich assumes 80 columns there and would cut cells; tables are only as wide as their content.
        console = Console(file=console.file, width=10_000)
    for table in tables_of(evaluation):
        console.print(_rich(table))


def _rich(table: TextTable) -> Table:
    """A table for the terminal; labels are never read as markup."""
    shown = Table(
        box=box.SIMPLE, title=Text(table.caption), title_justify="left", title_style="italic"
    )
    for index, heading in enumerate(table.headings):
        shown.add_column(Text(heading), justify="right" if index else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown
