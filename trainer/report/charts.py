"""How every chart of the report is drawn: colours, axes, error bars, caption.

Input: plotly figures. Output: their JSON, which plotly.js draws in the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from markupsafe import Markup

_GRID = "rgba(128, 128, 128, 0.25)"
COLOURS = (
    "#3b7dd8",
    "#c9621c",
    "#2f9e63",
    "#c14b87",
    "#8a6bd1",
    "#8f7a10",
    "#1b8a97",
    "#8d8d8d",
)
"""Readable on white and on black."""
_NUMBERS = {"tickformat": ",.6~g", "hoverformat": ",.4~g"}
"""Formats in the syntax of d3-format: they give 12,000 and 4.8e-7, where plotly would write 12k and 480n."""
SHARES = {"tickformat": ",.3~%", "hoverformat": ",.2~%"}
"""Formats of an axis of shares: 0.725 is shown as 72.5%."""
ON_DEMAND = "on demand"
"""The ``meta`` of a trace that is hidden until its chart's button is pressed."""


@dataclass(frozen=True, kw_only=True)
class RenderedChart:
    """A chart for the page."""

    title: str
    note: str
    """One sentence on what to look for."""
    div_id: str
    """Unique on the page."""
    figure: Markup
    """The figure that plotly.js draws, as JSON."""
    on_demand: str | None = None
    """Label of the button that shows the traces marked `ON_DEMAND`; None where there are none."""


def axis(title: str | None = None, **layout: object) -> dict[str, object]:
    """Layout of an axis with the page's grid; ``layout`` holds further plotly settings of the axis."""
    named = {} if title is None else {"title": {"text": title}}
    looks = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True}
    return {**named, **looks, **_NUMBERS, **layout}


def error_bars(
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    thickness: float = 1.5,
) -> dict[str, object]:
    """Error bars from the ends of the values' intervals, which are in the values' unit."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, high in zip(values, highs, strict=True)],
        "arrayminus": [value - low for value, low in zip(values, lows, strict=True)],
        "thickness": thickness,
    }


def render(
    figure: go.Figure, *, title: str, note: str, div_id: str, on_demand: str = ""
) -> RenderedChart:
    """A figure for the page, in the page's colours; ``div_id`` must be unique on the page.

    Args:
        figure: What to draw.
        title: The chart's heading.
        note: One sentence on what to look for.
        div_id: See `RenderedChart`.
        on_demand: Label of the button for the traces marked `ON_DEMAND`, if there are any.
    """
    hidden = any(trace.meta == ON_DEMAND for trace in figure.data)
    figure.update_layout(
        template="none",
        # The page's background shows through, light or dark; the page's script sets the text colour.
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        colorway=COLOURS,
        margin={"l": 55, "r": 20, "t": 10, "b": 40},
        showlegend=len(figure.data) > 1,
        legend={"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
    )
    # plotly escapes <, > and / in the JSON, so that a name cannot end the script element.
    return RenderedChart(
        title=title,
        note=note,
        div_id=div_id,
        figure=Markup(figure.to_json()),
        on_demand=on_demand if hidden else None,
    )
