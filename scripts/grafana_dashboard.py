"""Writes deploy/grafana/dashboards/regime-w.json: a dashboard of the trainer's metrics and the server's.

The trainer's queries come from `trainer.console.metric_catalog`, where each metric names its panel;
the panels, and the queries of the server's metrics, are defined here. Run it after you change either.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.console.metric_catalog import METRICS, Metric
from trainer.console.metrics_endpoint import gauge_name

DASHBOARD = Path(__file__).resolve().parent.parent / "deploy/grafana/dashboards/regime-w.json"

_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_WIDTH = 24
"""Columns of Grafana's grid."""


@dataclass(frozen=True)
class Query:
    """A PromQL expression and what its curves are called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A panel; the catalog's metrics that name it come before its own queries."""

    title: str
    unit: str = "short"
    """Grafana's name of the unit."""
    description: str = ""
    min: float | None = None
    max: float | None = None
    queries: tuple[Query, ...] = ()


@dataclass(frozen=True)
class PanelGroup:
    """Panels below a heading, from left to right."""

    title: str
    panels: tuple[Panel, ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8


def _quantiles(histogram: str) -> tuple[Query, Query]:
    """Median and 95th percentile of a histogram of the server."""
    rates = f"sum by (le) (rate(regime_w_{histogram}_bucket[1m]))"
    return (
        Query(f"histogram_quantile(0.5, {rates})", "median"),
        Query(f"histogram_quantile(0.95, {rates})", "95 %"),
    )


_AGE = f"time() - {gauge_name('last_step_timestamp_seconds')}"

# A table is read by its rows, so it keeps its own line breaks.
# fmt: off
SECTIONS = (
    PanelGroup("Where the run is", kind="stat", width=4, height=4, panels=(
        Panel("Step"),
        Panel("Steps in all", queries=(Query(gauge_name("num_steps"), "steps"),)),
        Panel("Since the newest step", "s", "Grows without end if a run hangs.", queries=(Query(_AGE, "age"),)),
        Panel("Version, trainer"),
        Panel("Version, server", queries=(Query("regime_w_active_version", "active"),)),
        Panel("Services up", description="Two: inference and trainer.", queries=(Query("sum(up)", "up"),)),
    )),
    PanelGroup("Is it learning?", (
        Panel("Reward"),
        Panel("Correct and answered", "percentunit", "The last curve needs run.evaluate_every.", min=0, max=1),
        Panel("Reward by arm"),
        Panel("Scores", min=0, max=1),
        Panel("Groups that teach nothing", "percentunit", min=0, max=1),
        Panel("Length of completions"),
    )),
    PanelGroup("Is the update sound?", (
        Panel("KL to the reference"),
        Panel("KL coefficient"),
        Panel("Entropy"),
        Panel("Clipping and truncation", "percentunit", min=0),
        Panel("Movement in a step"),
        Panel("Critic"),
    )),
    PanelGroup("Do trainer and server agree?", (
        Panel("Mismatch of logprobs", description="Mean difference between the trainer's logprob of a sampled token and the server's, in nats."),
        Panel("Staleness", min=0),
        Panel("Groups lost or replaced", min=0),
    )),
    PanelGroup("Who waits for whom?", (
        Panel("Waiting", "percentunit", "The side that waits less is the bottleneck.", min=0, max=1),
        Panel("A step's time", "s", min=0),
        Panel("Generation", description="Tokens per second.", min=0, queries=(
            Query("sum(rate(regime_w_completion_tokens_total[1m]))", "as the server counts"),)),
    )),
    PanelGroup("The server's part", (
        Panel("Groups in flight", min=0, queries=(Query("regime_w_groups_in_flight", "{{priority}}"),)),
        Panel("Time of a group", "s", min=0, queries=_quantiles("group_seconds")),
        Panel("Tokens by arm", min=0, queries=(Query("rate(regime_w_completion_tokens_total[1m])", "{{arm}}"),)),
        Panel("Versions and leases", min=0, queries=(
            Query("regime_w_versions", "versions held"),
            Query("regime_w_leases", "requests in flight on them"))),
        Panel("Time of a push", "s", min=0, queries=_quantiles("push_seconds")),
        Panel("Refused requests", "reqps", min=0, queries=(
            Query("rate(regime_w_rejects_total[1m])", "{{type}}"),
            Query("rate(regime_w_completions_total[1m])", "completions: {{finish_reason}}"))),
    )),
    PanelGroup("Several servers", width=12, panels=(
        Panel("Groups by server", description="Of the newest step. With one server, this panel and the next are empty.", min=0),
        Panel("Servers asked", min=0),
    )),
)
# fmt: on
"""The dashboard from top to bottom."""


def dashboard() -> dict[str, object]:
    """The dashboard as Grafana provisions it."""
    return {
        "uid": "regime-w",
        "title": "Regime W: training",
        "tags": ["regime-w"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": []},
        "annotations": {"list": []},
        "links": [
            {
                "title": "Regime W",
                "type": "dashboards",
                "tags": ["regime-w"],
                "asDropdown": False,
                "icon": "dashboard",
                "includeVars": False,
                "keepTime": True,
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "panels": _panels(SECTIONS),
    }


def _panels(sections: Sequence[PanelGroup]) -> list[dict[str, object]]:
    panels: list[dict[str, object]] = []
    y = 0
    for section in sections:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": section.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
                "panels": [],
            }
        )
        per_row = _WIDTH // section.width
        for i, panel in enumerate(section.panels):
            position = {
                "x": i % per_row * section.width,
                "y": y + 1 + i // per_row * section.height,
                "w": section.width,
                "h": section.height,
            }
            panels.append(_panel(panel, section.kind, len(panels) + 1, position))
        y += 1 + -(-len(section.panels) // per_row) * section.height
    return panels


def _panel(panel: Panel, kind: str, number: int, position: dict[str, int]) -> dict[str, object]:
    metrics = [metric for metric in METRICS if metric.panel == panel.title]
    description = panel.description
    if not description and len(metrics) == 1 and not panel.queries:
        description = f"{metrics[0].help}."
    limits = {"min": panel.min, "max": panel.max}
    defaults = {"unit": panel.unit} | {k: v for k, v in limits.items() if v is not None}
    return {
        "id": number,
        "type": kind,
        "title": panel.title,
        "description": description,
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        if kind == "timeseries"
        else {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "colorMode": "none",
            "graphMode": "none",
        },
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": _SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
            }
            for i, query in enumerate([*map(_query, metrics), *panel.queries])
        ],
    }


def _query(metric: Metric) -> Query:
    if metric.prefix is not None:
        prefix = gauge_name(metric.prefix)
        # In the names of gauges `arm_correct/` begins with `arm/`.
        longer = [
            name
            for other in METRICS
            if other.prefix
            and (name := gauge_name(other.prefix)) != prefix
            and name.startswith(prefix)
        ]
        without = "".join(f',__name__!~"{name}.+"' for name in longer)
        return Query(f'{{__name__=~"{prefix}.+"{without}}}', "{{__name__}}")
    return Query(gauge_name(metric.key), metric.label)


if __name__ == "__main__":
    DASHBOARD.write_text(json.dumps(dashboard(), indent=1) + "\n")
