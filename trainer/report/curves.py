"""Metrics over steps as a figure: one curve for each metric, on one axis or two.

Enters: rows of ``metrics.jsonl``. Leaves: plotly figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go

from trainer.report.charts import axis

_MARKERS_UP_TO_STEPS = 50
"""A line through one point is invisible, so few points get markers; many markers would hide the line."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A vertical axis and the metrics drawn against it."""

    title: str
    """The quantity or its unit."""
    curves: Mapping[str, str] = field(default_factory=dict)
    """Names of metrics to names in the legend."""
    log: bool = False
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

    @property
    def metrics(self) -> set[str]:
        """The metrics of both axes."""
        return {*self.left.curves, *(self.right.curves if self.right else ())}


def curve_figure(chart: CurveChart, rows: Sequence[Mapping[str, float]]) -> go.Figure:
    """Draw the metrics of a chart that have a value in at least one row.

    Args:
        chart: What to draw.
        rows: A step each, oldest first; each has ``step``.
    """
    figure = go.Figure()
    steps = [row["step"] for row in rows]
    names = {name for row in rows for name in row}
    mode = "lines+markers" if len(rows) <= _MARKERS_UP_TO_STEPS else "lines"
    for side, y, dash in ((chart.left, "y", "solid"), (chart.right, "y2", "dash")):
        for metric, label in side.curves.items() if side else ():
            if metric in names:
                # A step without the value (it was not finite) leaves a gap.
                figure.add_scatter(
                    x=steps,
                    y=[row.get(metric) for row in rows],
                    name=label,
                    yaxis=y,
                    mode=mode,
                    line={"dash": dash},
                    stackgroup="phases" if chart.stacked else None,
                )
    figure.update_layout(
        hovermode="x unified",
        xaxis=axis("step", title_standoff=6, zeroline=False),
        yaxis=_vertical(chart.left),
    )
    if chart.right is not None:
        # Two grids would cross, so only the left axis has one.
        figure.update_layout(
            yaxis2=_vertical(chart.right)
            | {"overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto"}
        )
    return figure


def _vertical(side: Axis) -> dict[str, object]:
    return axis(
        side.title,
        type="log" if side.log else "linear",
        rangemode="normal" if side.log else "tozero",
        range=side.limits,
    )
