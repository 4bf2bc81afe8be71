"""The catalog of metrics is complete and without repetition, and everything that draws from it follows it."""

import json
import math
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from scripts.dashboard_panels import DASHBOARDS, Dashboard
from scripts.grafana_dashboard import FOLDER, written
from trainer.console.metric_catalog import METRICS, curves, help_text, log_line
from trainer.ppo.diagnostics import UpdateMetrics
from trainer.report.run_charts import CHARTS, run_charts

ROOT = Path(__file__).resolve().parents[4]
KEYS = {metric.key for metric in METRICS}


def keys_in_the_source() -> set[str]:
    """Every metric that the trainer names, be it to write or to read it."""
    text = "".join(path.read_text() for path in (ROOT / "trainer").rglob("*.py"))
    found = set(re.findall(r'"((?:reward|rollout|scores|eval|sync|time)/\w+)"', text))
    return found | {f"time/{phase}_s" for phase in re.findall(r'\.lap\("(\w+)"\)', text)}


def test_every_metric_that_a_step_writes_is_declared() -> None:
    assert keys_in_the_source() >= {"reward/mean", "time/wait_s", "eval/low", "sync/mismatch"}
    assert keys_in_the_source() - KEYS == set()
    assert {f"ppo/{field.name}" for field in fields(UpdateMetrics)} - KEYS == set()


def test_no_metric_is_declared_twice_and_each_says_what_it_measures() -> None:
    assert [key for key, count in Counter(m.key for m in METRICS).items() if count > 1] == []
    assert [metric.key for metric in METRICS if not metric.help] == []
    drawn = [metric for metric in METRICS if (metric.chart or metric.panel) and not metric.prefix]
    assert [metric.key for metric in drawn if not metric.label] == []


def test_every_chart_that_a_metric_names_exists_and_none_is_empty() -> None:
    assert {metric.chart for metric in METRICS if metric.chart} == set(CHARTS)
    for metric in METRICS:
        assert not metric.right or CHARTS[metric.chart].right, metric.key
    for name, chart in CHARTS.items():
        assert bool(chart.right) == bool(curves(name, KEYS, right=True)), name


def test_every_panel_that_a_metric_names_exists_and_none_is_empty() -> None:
    drawn = [panel for each in DASHBOARDS for group in each.groups for panel in group.panels]
    panels = {panel.title: panel for panel in drawn}
    assert len(panels) == len(drawn)
    named = {metric.panel for metric in METRICS if metric.panel}
    assert named - set(panels) == set()
    assert [
        title for title, panel in panels.items() if title not in named and not panel.queries
    ] == []


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.file)
def test_a_committed_dashboard_is_that_of_the_declaration(dashboard: Dashboard) -> None:
    committed = json.loads((FOLDER / dashboard.file).read_text())
    assert committed == written(dashboard), "run python scripts/grafana_dashboard.py"


def test_every_committed_dashboard_is_written_by_the_script() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {each.file for each in DASHBOARDS}


def test_a_pattern_stands_for_every_arm() -> None:
    keys = ["arm/b", "arm/a", "arm_correct/a", "step"]
    assert curves("arm", keys) == {"arm/a": "a", "arm/b": "b"}
    assert curves("arm_correct", keys) == {"arm_correct/a": "a"}
    assert help_text("arm/a") == help_text("arm/b") != help_text("arm_correct/a")


def test_a_metric_without_a_declaration_is_scraped_all_the_same() -> None:
    assert help_text("mine/novelty") == "Of the newest step: mine/novelty"
    assert help_text("ppo/kl_coef") == "Coefficient of the KL penalty (of the newest step)"


def test_the_line_has_what_the_row_has() -> None:
    row = {"step": 7, "version": 3, "ppo/reference_kl": 0.25, "reward/mean": -1.0}
    assert log_line(row, verbose=False) == "reward -1.000 kl 0.250"
    assert "ev" not in log_line({**row, "ppo/explained_variance": math.nan}, verbose=False)
    assert log_line(row, verbose=True) == "version 3 reward -1.000 kl 0.250"


def test_only_charts_with_data_are_drawn() -> None:
    charts = run_charts([{"step": 1, "ppo/kl_coef": 0.1}, {"step": 2, "arm/solo": 1.0}], ())
    assert [chart.title for chart in charts] == ["Reward by arm", "KL to the reference"]
