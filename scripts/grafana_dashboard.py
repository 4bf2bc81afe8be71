"""Writes deploy/grafana/dashboards/*.json: a dashboard of the trainer's metrics and the server's, and one of vLLM's.

The trainer's queries come from `trainer.console.metric_catalog`, where each metric names its panel; the panels, and the
queries of the servers' metrics, are defined in scripts/dashboard_panels.py. Run it after you change either:

    python scripts/grafana_dashboard.py
"""

import json
from collections.abc import Sequence
from pathlib import Path

from scripts.dashboard_panels import DASHBOARDS, Dashboard, Panel, PanelGroup, Query
from trainer.console.metric_catalog import METRICS, Metric
from trainer.console.metrics_endpoint import gauge_name

FOLDER = Path(__file__).resolve().parent.parent / "deploy/grafana/dashboards"

_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_WIDTH = 24
"""Columns of Grafana's grid."""


def written(dashboard: Dashboard) -> dict[str, object]:
    """A dashboard as Grafana provisions it."""
    return {
        "uid": dashboard.uid,
        "title": f"Regime W: {dashboard.title}",
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
        "panels": _panels(dashboard.groups),
    }


def _panels(groups: Sequence[PanelGroup]) -> list[dict[str, object]]:
    panels: list[dict[str, object]] = []
    y = 0
    for group in groups:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": group.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
                "panels": [],
            }
        )
        per_row = _WIDTH // group.width
        for i, panel in enumerate(group.panels):
            position = {
                "x": i % per_row * group.width,
                "y": y + 1 + i // per_row * group.height,
                "w": group.width,
                "h": group.height,
            }
            panels.append(_panel(panel, group.kind, len(panels) + 1, position))
        y += 1 + -(-len(group.panels) // per_row) * group.height
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
    for each in DASHBOARDS:
        (FOLDER / each.file).write_text(json.dumps(written(each), indent=1) + "\n")
