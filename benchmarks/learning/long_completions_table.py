"""The table of benchmarks/learning/long_completions.py."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.figures import spread
from benchmarks.learning.curves import Curve
from benchmarks.learning.evaluation import curve_path
from benchmarks.markdown import markdown_table
from trainer.io.metrics_file import read_metrics

VARIANCE_STEPS = range(16, 21)
"""The explained variance "at step 20" is the mean over these steps, since one step has only 64 completions."""


def accuracy_at(curve: Curve, seconds: float) -> float:
    """Accuracy after this many seconds of training, interpolated linearly between two points."""
    before = curve.points[0]
    for point in curve.points[1:]:
        if point.seconds >= seconds:
            share = max(0.0, (seconds - before.seconds) / (point.seconds - before.seconds))
            return before.accuracy + share * (point.accuracy - before.accuracy)
        before = point
    return before.accuracy


def table(rows: Iterable[str], runs: Sequence[tuple[str, Curve]], folder: Path) -> str:
    """A Markdown table with a line for each row that has runs; cells show the mean over seeds (lowest to highest)."""
    equal_s = min(curve.points[-1].seconds for _, curve in runs)
    heads = (
        "",
        "tokens",
        "explained variance at step 20",
        "s before step 1",
        "s a step",
        f"accuracy after {equal_s:.0f} s",
        "final accuracy",
        "start",
    )
    lines = []
    for row in rows:
        curves = [curve for name, curve in runs if name == row]
        if not curves:
            continue
        metrics = [read_metrics(curve_path(folder, c.seed, row).parent / "run") for c in curves]
        variances = [
            statistics.fmean(
                m[step - 1].get("ppo/explained_variance", float("nan"))
                for step in VARIANCE_STEPS
                if step <= len(m)
            )
            for m in metrics
        ]
        tokens = statistics.fmean(
            each["rollout/completion_tokens_mean"] for m in metrics for each in m
        )
        lines.append(
            (
                f"`{row}`, {len(curves)} seeds",
                f"{tokens:.0f}",
                mean(variances, "{:+.2f}") if row.startswith("gae") else "no critic",
                mean([c.points[0].seconds for c in curves], "{:.0f}"),
                mean([c.step_s for c in curves], "{:.2f}"),
                mean([100 * accuracy_at(c, equal_s) for c in curves], "{:.1f}"),
                mean([100 * c.points[-1].accuracy for c in curves], "{:.1f}"),
                mean([100 * c.points[0].accuracy for c in curves], "{:.1f}"),
            )
        )
    return markdown_table(heads, lines)


def mean(numbers: Sequence[float], form: str) -> str:
    """The mean, and if the numbers differ the lowest and highest."""
    found = form.format(statistics.fmean(numbers))
    return found if min(numbers) == max(numbers) else f"{found} {spread(numbers, form)}"
