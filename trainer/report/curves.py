"""Metrics over steps as a figure: one curve for each metric, on one axis or two.

Input: rows of ``metrics.jsonl``. Output: plotly figures.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import plotly.graph_objects as go

from trainer.report.charts import COLOURS, ON_DEMAND, SHARES, axis, error_bars

_MARKERS_UP_TO_STEPS = 50
"""A line through one point is invisible, so few points get markers; many markers would hide the line."""
_WHOLE_STEPS_UP_TO = 10
"""With fewer steps, plotly would put ticks between whole numbers."""
_TICKS_OF_A_DECADE = ((3, (1, 2, 5)), (5, (1, 3)))
"""Pairs: most decades of a logarithmic axis, and the ticks of each decade. A longer axis has one tick per decade."""
_DASHES = ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A vertical axis and the metrics drawn against it."""

    title: str
    """The quantity or its unit."""
    curves: Mapping[str, str] = field(default_factory=dict)
    """Keys of metrics, mapped to their names in the legend."""
    log: bool = False
    is_share: bool = False
    """Whether its numbers are shares, which are shown in percent."""
    limits: tuple[float, float] | None = None
    """Visible range; None fits the curves."""


@dataclass(frozen=True, kw_only=True)
class CurveChart:
    """A chart of metrics over steps."""

    title: str
    note: str
    """One sentence on what to look for."""
    left: Axis
    right: Axis | None = None
    """A second axis, whose curves are dashed."""
    stacked: bool = False
    """Whether the curves of the left axis add up."""
    step: str = "step"
    """The metric that says which step a row is about; rows without it are left out."""
    interval: tuple[str, str] | None = None
    """The two metrics that hold the ends of the first curve's interval, drawn as error bars."""
    by_family: bool = False
    """Whether the arms are drawn as one curve per family, and as one curve per arm on demand."""
    members: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Metrics of the left axis, mapped to the metrics of their arms with the arms' names; the arms' curves are hidden
    until they are asked for."""

    connects_gaps: bool = False
    """Whether the points of each curve are joined, because its metrics are measured at different steps."""

    @property
    def metrics(self) -> set[str]:
        """The metrics of both axes."""
        return {*self.left.curves, *(self.right.curves if self.right else ())}


def curve_figure(chart: CurveChart, rows: Sequence[Mapping[str, float]]) -> go.Figure:
    """Draw the metrics of a chart that have a value in at least one row.

    Args:
        chart: What to draw.
        rows: One row per step, oldest first; each has ``step``.
    """
    figure = go.Figure()
    rows = [row for row in rows if chart.step in row]
    steps = [row[chart.step] for row in rows]
    names = {name for row in rows for name in row}
    colours = cycle(COLOURS)
    for side, y, dash in ((chart.left, "y", "solid"), (chart.right, "y2", "dash")):
        for metric, label in side.curves.items() if side else ():
            if metric not in names:
                continue
            # A step without the value (it was not finite) leaves a gap.
            colour, values = next(colours), [row.get(metric) for row in rows]
            figure.add_scatter(
                x=steps,
                y=values,
                name=label,
                yaxis=y,
                line=_line(chart, dash, colour, is_first=not figure.data),
                stackgroup="phases" if chart.stacked else None,
                error_y=None if figure.data else _interval(chart, rows),
                **_joined(values, connects_gaps=chart.connects_gaps),
            )
            for (member, name), style in zip(
                chart.members.get(metric, {}).items(), cycle(_DASHES), strict=False
            ):
                values = [row.get(member) for row in rows]
                figure.add_scatter(
                    x=steps,
                    y=values,
                    name=name,
                    line={"dash": style, "color": colour, "width": 1},
                    marker={"size": 3},
                    meta=ON_DEMAND,
                    visible=False,
                    **_joined(values),
                )
    figure.update_layout(
        hovermode="x unified",
        xaxis=axis(
            "step",
            title_standoff=6,
            zeroline=False,
            dtick=1 if steps and steps[-1] - steps[0] < _WHOLE_STEPS_UP_TO else None,
        ),
        yaxis=_vertical(chart.left, rows),
    )
    if chart.right is not None:
        # Two grids would cross, so only the left axis has one.
        figure.update_layout(
            yaxis2=_vertical(chart.right, rows)
            | {"overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto"}
        )
    return figure


def _line(chart: CurveChart, dash: str, colour: str, *, is_first: bool) -> dict[str, object]:
    if chart.interval is not None and not is_first:
        # Thin and dotted: it follows the first curve, which must stay visible under it.
        return {"dash": "dot", "color": colour, "width": 1}
    return {"dash": dash, "color": colour, "width": 3 if chart.members else 2}


def _joined(values: Sequence[float | None], *, connects_gaps: bool = False) -> dict[str, object]:
    """How plotly joins the points of a curve so that each is visible; a line through one point is not."""
    around = [None, *values, None]
    alone = [
        around[i - 1] is None and around[i + 1] is None
        for i in range(1, len(around) - 1)
        if around[i] is not None
    ]
    with_markers = len(values) <= _MARKERS_UP_TO_STEPS or any(alone)
    # If every point is alone, the metric is measured every few steps: its points are joined to one curve.
    return {
        "mode": "lines+markers" if with_markers else "lines",
        "connectgaps": connects_gaps or all(alone),
    }


def _interval(chart: CurveChart, rows: Sequence[Mapping[str, float]]) -> dict[str, object] | None:
    """Error bars of the chart's first curve; None unless every row has the value and both ends."""
    if chart.interval is None:
        return None
    metric, (low, high) = next(iter(chart.left.curves)), chart.interval
    if not all({metric, low, high} <= set(row) for row in rows):
        return None
    columns = [[row[name] for row in rows] for name in (metric, low, high)]
    return error_bars(*columns, thickness=1)


def _vertical(side: Axis, rows: Sequence[Mapping[str, float]]) -> dict[str, object]:
    if side.log:
        ticks = log_ticks(row[key] for row in rows for key in side.curves if key in row)
        # plotly would write 0.000001 beside 5e-7.
        text = [
            f"{tick:g}" if tick >= 1e-3 else f"{tick:.0e}".replace("e-0", "e-") for tick in ticks
        ]
        ends = [math.log10(tick) for tick in (ticks[0], ticks[-1])] if ticks else None
        return axis(
            side.title, type="log", tickvals=ticks or None, ticktext=text or None, range=ends
        )
    numbers = SHARES if side.is_share else {}
    return axis(side.title, type="linear", rangemode="tozero", range=side.limits, **numbers)


def log_ticks(values: Iterable[float]) -> list[float]:
    """Ticks of a logarithmic axis that enclose the positive values; plotly's own ticks overlap within a decade."""
    positive = [value for value in values if value > 0]
    if not positive:
        return []
    low, high = min(positive), max(positive)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    each = next((each for most, each in _TICKS_OF_A_DECADE if last - first <= most), (1,))
    # One decade more on each side, because logarithms are rounded.
    ladder = [float(f"{digit}e{power}") for power in range(first - 1, last + 2) for digit in each]
    begin = max(tick for tick in ladder if tick <= low)
    end = min(tick for tick in ladder if tick >= high and tick > begin)
    return [tick for tick in ladder if begin <= tick <= end]
