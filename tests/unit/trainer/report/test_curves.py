from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.report.curves import Axis, CurveChart, curve_figure, log_ticks


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([3.8e-7, 2.2e-6], [2e-7, 5e-7, 1e-6, 2e-6, 5e-6]),
        ([1e-6], [1e-6, 2e-6]),
        ([1e-3, 1e-2], [1e-3, 2e-3, 5e-3, 1e-2]),
        ([0.0, 2e-4, 0.9], [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0]),
        ([2e-6, 4.0], [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]),
        ([0.0], []),
        ([], []),
    ],
)
def test_ticks_of_a_logarithmic_axis(values: list[float], ticks: list[float]) -> None:
    assert log_ticks(values) == ticks


@given(st.lists(st.floats(1e-12, 1e6), min_size=1))
def test_ticks_enclose_the_values_and_leave_room_for_their_labels(values: list[float]) -> None:
    ticks = log_ticks(values)
    assert ticks == sorted(set(ticks))
    assert ticks[0] <= min(values) <= max(values) <= ticks[-1]
    assert 2 <= len(ticks) <= 20
    assert all(after / before > 1.9 for before, after in pairwise(ticks))


def test_a_logarithmic_axis_has_the_ticks_and_begins_and_ends_with_them() -> None:
    chart = CurveChart(title="", note="", left=Axis(title="x", curves={"a": "A"}, log=True))
    found = curve_figure(chart, [{"step": 1, "a": 2e-7}, {"step": 2}, {"step": 3, "a": 1e-6}])
    axis = found.layout.yaxis
    assert axis.tickvals == (2e-7, 5e-7, 1e-6)
    assert axis.ticktext == ("2e-7", "5e-7", "1e-6")
    assert axis.range == pytest.approx((-6.69897, -6.0))
    large = curve_figure(chart, [{"step": 1, "a": 5e-4}, {"step": 2, "a": 0.002}]).layout.yaxis
    assert large.ticktext == ("5e-4", "0.001", "0.002")
    empty = curve_figure(chart, [{"step": 1, "a": 0.0}]).layout.yaxis
    assert (empty.range, empty.tickvals) == (None, None)
