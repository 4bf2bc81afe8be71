"""The arithmetic of the learning benchmarks."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    """The module `curves`, loaded from its file, since benchmarks/ is not a package."""
    path = Path(__file__).parents[3] / "benchmarks/learning/curves.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def bits(num_correct: int, of: int = 100) -> str:
    return "1" * num_correct + "0" * (of - num_correct)


def curve(curves: ModuleType, *points: tuple[int, float, int], row: str = "ours") -> Any:
    return curves.Curve(
        row=row,
        seed=0,
        points=tuple(curves.Point(step=s, seconds=t, correct=bits(n)) for s, t, n in points),
    )


@pytest.mark.parametrize(
    ("points", "expected_s"),
    [
        (((0, 0.0, 50), (2, 4.0, 60), (4, 8.0, 80)), 6.0),  # halfway from 60 to 80
        (((0, 0.0, 50), (2, 4.0, 70)), 4.0),
        (((0, 0.0, 50), (2, 4.0, 72), (4, 8.0, 60)), 4.0 * 20 / 22),  # the first time counts
        (((0, 0.0, 50), (2, 4.0, 69)), math.inf),
        (((0, 0.0, 70), (2, 4.0, 40)), 0.0),
    ],
)
def test_time_to_an_accuracy(
    curves: ModuleType, points: tuple[tuple[int, float, int], ...], expected_s: float
) -> None:
    assert curve(curves, *points).time_to(0.70) == pytest.approx(expected_s)


def test_step_time_is_a_median_of_stretches(curves: ModuleType) -> None:
    run = curve(curves, (0, 0.0, 1), (2, 10.0, 1), (4, 12.0, 1), (8, 16.0, 1))
    assert run.step_s == 1.0


def test_summary_of_runs_of_which_one_never_arrives(curves: ModuleType) -> None:
    runs = [
        curve(curves, (0, 0.0, 50), (2, 2.0, 90)),
        curve(curves, (0, 0.0, 50), (2, 3.0, 70)),
        curve(curves, (0, 0.0, 50), (2, 4.0, 50)),
    ]
    assert curves.available_gain(runs) == pytest.approx(0.2)
    summary = curves.Summary.of(runs, available_gain=0.2)
    half, most = summary.times_s
    assert half == pytest.approx((0.5, 1.5, math.inf))
    assert most == pytest.approx((0.9, 2.7, math.inf))
    assert curves.late_median(most) == pytest.approx(2.7)
    assert summary.final_accuracy == pytest.approx(0.7)
    assert summary.gain == pytest.approx(20.0)
    assert summary.gain_low < 20 < summary.gain_high
    assert "+18 points, 90 % of what can be won" in (text := curves.table(runs, ["ours"]))
    assert "never" in text


def test_the_best_row_says_what_can_be_won(curves: ModuleType) -> None:
    runs = [
        curve(curves, (0, 0.0, 40), (2, 2.0, 95), row="one lucky run of three"),
        curve(curves, (0, 0.0, 40), (2, 2.0, 60), row="one lucky run of three"),
        curve(curves, (0, 0.0, 40), (2, 2.0, 50), row="one lucky run of three"),
        curve(curves, (0, 0.0, 40), (2, 2.0, 90), row="ours"),
    ]
    assert curves.available_gain(runs) == pytest.approx(0.5)


def test_interval_covers_chance_in_questions_and_runs(curves: ModuleType) -> None:
    rng = np.random.default_rng(1)
    low, high = curves.gain_interval(rng.choice([-1, 0, 1], size=(3, 400)))
    assert low < 0 < high
    # Runs that agree on every question leave the chance in questions alone: 2 · 1.96 · sqrt(1/4 / 400).
    same = np.tile(np.arange(400) % 2, (3, 1))
    low, high = curves.gain_interval(same)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.05)
    # Runs that disagree widen it.
    spread = np.array([[1] * 400, [0] * 400, [0] * 400])
    low, high = curves.gain_interval(spread)
    assert (low, high) == (0.0, 1.0)


def test_curve_survives_its_file(curves: ModuleType, tmp_path: Path) -> None:
    run = curve(curves, (0, 0.0, 50), (2, 4.0, 70))
    run.write(tmp_path / "curve.json")
    assert curves.Curve.read(tmp_path / "curve.json") == run


def test_plot_is_xml_with_a_line_for_every_run_and_mean(curves: ModuleType) -> None:
    runs = [
        curve(curves, (0, 0.0, 50), (2, seconds, 70), row=row)
        for row in ("a < b", "c")
        for seconds in (4.0, 5.0)
    ]
    root = ElementTree.fromstring(curves.plot(runs, ["a < b", "c"]))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    widths = [line.get("stroke-width") for line in lines]
    assert widths.count("0.8") == 4
    assert widths.count("2.5") == 2
    names = [text.text for text in root.findall("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "c", "SFT +10 points, 50 % of what can be won"} <= set(names)


def test_a_plot_of_runs_that_are_right_everywhere_has_room_below(curves: ModuleType) -> None:
    ElementTree.fromstring(curves.plot([curve(curves, (0, 0.0, 100), (2, 4.0, 100))], ["ours"]))
