"""Held-out accuracy against training time, for all learning benchmarks.

Input: for each run, which held-out questions its versions answer correctly. Output: a table and a plot.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks.markdown import markdown_table

NUM_RESAMPLES = 10_000
SHARES = (0.5, 0.9)
"""Shares of what can be won; a table compares the times until they are reached."""
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#7f7f7f", "#17becf", "#8c564b")


class Point(BaseModel):
    """One version of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    seconds: float
    """Seconds of training before this version; evaluation does not count."""
    correct: str
    """A 1 for each held-out question that the version answers correctly, a 0 for each other one."""

    @property
    def accuracy(self) -> float:
        return self.correct.count("1") / len(self.correct)


class Curve(BaseModel):
    """One run; each file holds one curve."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    seed: int
    points: tuple[Point, ...]
    """From the SFT start to the last version."""

    def write(self, path: Path) -> None:
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_text(self.model_dump_json() + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls.model_validate_json(path.read_bytes())

    @property
    def step_s(self) -> float:
        """Seconds per step: the median over the stretches between points, so that a slow first step does not count."""
        pairs = zip(self.points, self.points[1:], strict=False)
        return statistics.median((b.seconds - a.seconds) / (b.step - a.step) for a, b in pairs)

    def time_to(self, accuracy: float) -> float:
        """Seconds until the accuracy is reached for the first time, infinite if it never is.

        Between two points the accuracy is interpolated linearly.
        """
        before = self.points[0]
        for point in self.points:
            if point.accuracy >= accuracy:
                rise = point.accuracy - before.accuracy
                share = (accuracy - before.accuracy) / rise if rise > 0 else 0.0
                return before.seconds + share * (point.seconds - before.seconds)
            before = point
        return math.inf

    def time_to_share(self, share: float, available_gain: float) -> float:
        """Seconds until the accuracy has risen by this share of the available gain over the start; see `time_to`."""
        return self.time_to(self.points[0].accuracy + share * available_gain)


def available_gain(curves: Sequence[Curve]) -> float:
    """How much accuracy can be won over the start, judged by a comparison's runs: the best row's median gain in the end."""
    rows = {curve.row: [c for c in curves if c.row == curve.row] for curve in curves}
    return max(
        statistics.median(run.points[-1].accuracy - run.points[0].accuracy for run in runs)
        for runs in rows.values()
    )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row of the table: the runs of one kind."""

    row: str
    step_s: float
    times_s: tuple[tuple[float, ...], ...]
    """For each of `SHARES` the seconds that each run took, lowest first; infinite if it was not reached."""
    final_accuracy: float
    gain: float
    """Mean gain of the last versions over the start, in percentage points."""
    gain_low: float
    gain_high: float

    @classmethod
    def of(cls, curves: Sequence[Curve], *, available_gain: float) -> Self:
        """Summarize the runs of one row.

        Args:
            curves: At least one.
            available_gain: Of the comparison, see the function of that name; the summary has the times to `SHARES` of it.
        """
        starts = np.array([_bits(curve.points[0]) for curve in curves])
        ends = np.array([_bits(curve.points[-1]) for curve in curves])
        low, high = gain_interval(ends - starts)
        times = (sorted(c.time_to_share(share, available_gain) for c in curves) for share in SHARES)
        return cls(
            row=curves[0].row,
            step_s=statistics.median(curve.step_s for curve in curves),
            times_s=tuple(map(tuple, times)),
            final_accuracy=float(ends.mean()),
            gain=100 * float((ends - starts).mean()),
            gain_low=100 * low,
            gain_high=100 * high,
        )

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            self.row,
            f"{self.step_s:.2f}",
            *(
                f"{_seconds(late_median(t))} ({_seconds(t[0])} to {_seconds(t[-1])})"
                for t in self.times_s
            ),
            f"{100 * self.final_accuracy:.1f} %",
            f"{self.gain:+.1f} [{self.gain_low:+.1f}, {self.gain_high:+.1f}]",
        )


def late_median(times_s: Sequence[float]) -> float:
    """The median, or of an even number the later of the two in the middle: always one run's time, perhaps infinite."""
    return sorted(times_s)[len(times_s) // 2]


def gain_interval(gains: np.ndarray) -> tuple[float, float]:
    """The 95% bootstrap interval of the mean gain, with both runs and questions resampled.

    Args:
        gains: [runs, questions] 1 where a question was won, -1 where it was lost.
    """
    num_runs, num_questions = gains.shape
    rng = np.random.default_rng(0)
    drawn_runs = rng.multinomial(num_runs, [1 / num_runs] * num_runs, size=NUM_RESAMPLES)
    drawn_questions = rng.multinomial(
        num_questions, [1 / num_questions] * num_questions, size=NUM_RESAMPLES
    )
    means = ((drawn_runs @ gains) * drawn_questions).sum(axis=1) / gains.size
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def table(curves: Sequence[Curve], rows: Sequence[str]) -> str:
    """A Markdown table with a line for each row that has runs."""
    gain = available_gain(curves)
    heads = (
        "",
        "s a step",
        *(f"seconds to {_points(share, gain)} (lowest to highest)" for share in SHARES),
        "final accuracy",
        "gain over SFT, points [95%]",
    )
    of_rows = ([curve for curve in curves if curve.row == row] for row in rows)
    lines = [Summary.of(runs, available_gain=gain).cells for runs in of_rows if runs]
    return markdown_table(heads, lines)


def plot(curves: Sequence[Curve], rows: Sequence[str]) -> str:
    """An SVG: a thin line for each run, a thick one for the mean of a row's runs."""
    width, height, left, top, right, bottom = 760, 440, 56, 20, 250, 46
    longest_s = max(curve.points[-1].seconds for curve in curves)
    lowest = min(9, math.floor(10 * min(p.accuracy for c in curves for p in c.points))) / 10

    def place(seconds: float, accuracy: float) -> str:
        x = left + (width - left - right) * seconds / longest_s
        y = top + (height - top - bottom) * (1 - (accuracy - lowest) / (1 - lowest))
        return f"{x:.1f},{y:.1f}"

    def line(points: Sequence[tuple[float, float]], style: str) -> str:
        return f'<polyline fill="none" {style} points="{" ".join(place(*p) for p in points)}"/>'

    def text(at: str, words: str, anchor: str = "start") -> str:
        x, y = at.split(",")
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for tenth in range(round(10 * lowest), 11):
        parts.append(line([(0, tenth / 10), (longest_s, tenth / 10)], 'stroke="#ddd"'))
        x, y = place(0, tenth / 10).split(",")
        parts.append(text(f"{float(x) - 6},{float(y) + 4}", f"{10 * tenth} %", "end"))
    for seconds in range(0, math.floor(longest_s) + 1, 5 if longest_s < 60 else 20):
        x, y = place(seconds, lowest).split(",")
        parts.append(text(f"{x},{float(y) + 16}", f"{seconds}", "middle"))
    x, y = place(longest_s / 2, lowest).split(",")
    parts.append(text(f"{x},{float(y) + 34}", "seconds of training", "middle"))
    sft = statistics.mean(curve.points[0].accuracy for curve in curves)
    for share in SHARES:
        target = sft + share * available_gain(curves)
        parts.append(
            line([(0, target), (longest_s, target)], 'stroke="#999" stroke-dasharray="4 4"')
        )
        x, y = place(longest_s, target).split(",")
        parts.append(
            text(f"{x},{float(y) - 5}", f"SFT {_points(share, available_gain(curves))}", "end")
        )
    for number, row in enumerate(row for row in rows if any(c.row == row for c in curves)):
        runs, colour = [c for c in curves if c.row == row], COLOURS[number % len(COLOURS)]
        for run in runs:
            points = [(p.seconds, p.accuracy) for p in run.points]
            parts.append(line(points, f'stroke="{colour}" stroke-width="0.8" opacity="0.35"'))
        mean = [
            (statistics.mean(p.seconds for p in at), statistics.mean(p.accuracy for p in at))
            for at in zip(*(run.points for run in runs), strict=True)
        ]
        parts.append(line(mean, f'stroke="{colour}" stroke-width="2.5"'))
        y_legend = top + 14 + 20 * number
        parts.append(
            f'<rect x="{width - right + 16}" y="{y_legend - 9}" width="14" height="4" fill="{colour}"/>'
        )
        parts.append(text(f"{width - right + 36},{y_legend - 3}", row))
    return "\n".join([*parts, "</svg>\n"])


def _bits(point: Point) -> list[int]:
    return [int(bit) for bit in point.correct]


def _points(share: float, available_gain: float) -> str:
    return f"+{100 * share * available_gain:.0f} points, {100 * share:.0f} % of what can be won"


def _seconds(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{seconds:.1f}"
