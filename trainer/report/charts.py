"""A figure of plotly's for the report's page: its colours, its place, its caption.

Leaves: figures as JSON, which plotly.js draws.
"""

from dataclasses import dataclass

import plotly.graph_objects as go
from markupsafe import Markup

GRID = "rgba(128, 128, 128, 0.25)"
_COLOURS = (
    "#3b7dd8",
    "#e07b39",
    "#2f9e63",
    "#c14b87",
    "#8a6bd1",
    "#b39b1f",
    "#2aa5b3",
    "#8d8d8d",
)
"""Readable on white and on black."""


@dataclass(frozen=True, kw_only=True)
class RenderedChart:
    """A chart for the page."""

    title: str
    note: str
    """One sentence on what to look for."""
    div_id: str
    figure: Markup
    """What plotly.js draws, as JSON."""


def render(figure: go.Figure, *, title: str, note: str, div_id: str) -> RenderedChart:
    """A figure for the page, in the page's colours; ``div_id`` is unique on it."""
    figure.update_layout(
        template="none",
        # The page's own colours show through, light or dark; its script sets the ink.
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        colorway=_COLOURS,
        margin={"l": 55, "r": 20, "t": 10, "b": 40},
        showlegend=len(figure.data) > 1,
        legend={"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
    )
    # plotly escapes <, > and / in what it embeds; a name cannot end the script.
    return RenderedChart(title=title, note=note, div_id=div_id, figure=Markup(figure.to_json()))
