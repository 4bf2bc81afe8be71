"""A long run's metrics averaged to few points, compared with means computed by hand."""

import pytest

from trainer.report.run_charts import run_charts
from trainer.report.thinning import thinned

ROWS = [
    {"step": 1.0, "reward/mean": 1.0, "ppo/entropy": 4.0},
    {"step": 2.0, "reward/mean": 2.0, "ppo/entropy": 9.0, "eval/accuracy": 0.5},
    {"step": 3.0, "reward/mean": 6.0},
    {"step": 4.0, "reward/mean": 8.0},
]


@pytest.mark.parametrize(
    ("most", "steps", "rewards"),
    [
        (9, [1, 2, 3, 4], [1, 2, 6, 8]),
        (4, [1, 2, 3, 4], [1, 2, 6, 8]),
        (3, [1, 2, 4], [1, 2, 7]),
        (2, [2, 4], [1.5, 7]),
        (1, [4], [4.25]),
    ],
)
def test_consecutive_steps_become_their_mean(
    most: int, steps: list[int], rewards: list[float]
) -> None:
    found = thinned(ROWS, most)
    assert [row["step"] for row in found] == steps
    assert [row["reward/mean"] for row in found] == rewards


def test_a_mean_of_steps_has_the_time_of_the_last() -> None:
    rows = [{**row, "time": 1000 + 7 * row["step"] ** 2} for row in ROWS]
    assert [row["time"] for row in thinned(rows, 2)] == [1028, 1112]


def test_a_metric_of_only_some_steps_is_averaged_over_these() -> None:
    first, second = thinned(ROWS, 2)
    assert (first["ppo/entropy"], first["eval/accuracy"]) == (6.5, 0.5)
    assert second.keys() == {"step", "reward/mean"}


def test_a_long_run_says_so_and_keeps_every_evaluation() -> None:
    rows = [{"step": step, "reward/mean": 1.0 + step % 2} for step in range(1, 2501)]
    rows[98] |= {"eval/step": 99, "eval/accuracy": 0.125}
    rows[99] |= {"eval/step": 100, "eval/accuracy": 0.375}
    charts = {chart.title: chart for chart in run_charts(rows, ())}
    reward, evaluation = charts["Reward and its parts"], charts["Held-out accuracy"]
    assert "A point is the mean of up to 3 steps." in reward.note
    assert "A point" not in evaluation.note
    assert "0.125" in evaluation.figure
    assert "0.375" in evaluation.figure
    (of_1001, *_) = run_charts(rows[:1001], ())
    assert "A point is the mean of up to 2 steps." in of_1001.note
    (short,) = run_charts(rows[:50], ())
    assert "A point" not in short.note
