"""The table of metrics, and what went wrong in single steps."""

from pathlib import Path

import pytest

from trainer.io.metrics_file import Metrics
from trainer.report.run_record import RunRecord
from trainer.report.summary import incidents_of, summary_of


def run_of(*rows: Metrics) -> RunRecord:
    return RunRecord(
        folder=Path("runs/x"),
        rows=[{"step": step, **row} for step, row in enumerate(rows, 1)],
        config_text=None,
        config=None,
        has_evaluation=False,
        evaluation=None,
    )


def test_the_first_and_the_last_quarter_of_each_metric_are_shown() -> None:
    rows = [{"reward/mean": step / 10, "reward_function/brevity": -step} for step in range(8)]
    table = summary_of(run_of(*rows, {"rollout/truncated": 0.125}))
    assert table is not None
    assert table.rows == (
        ("reward", "+0.050", "+0.650"),
        ("reward of brevity", "-0.500", "-6.500"),
        ("truncated completions", "12.5%", "12.5%"),
    )


def test_held_out_accuracy_is_that_of_the_first_and_the_newest_evaluation() -> None:
    asked = {"eval/num_questions": 50}
    table = summary_of(
        run_of(
            {"eval/accuracy": 0.5, "eval/step": 0, **asked},
            {"eval/accuracy": 0.8, "eval/step": 1, **asked},
            {"eval/accuracy": 0.7, **asked},
        )
    )
    assert table is not None
    assert table.rows == (("held-out accuracy", "50.0% (at the start)", "70.0% (at step 3)"),)


def test_without_metrics_there_is_no_table() -> None:
    assert summary_of(run_of({}, {})) is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"rollout/num_dropped_groups": 0, "ppo/stopped_early": 0, "servers/left": 0}], []),
        (
            [{"rollout/num_dropped_groups": n} for n in (0, 2, 5)],
            ["In 2 of 3 steps, groups were lost and requested again (7 in all)."],
        ),
        (
            [{"ppo/stopped_early": n} for n in (0, 1, 1)],
            ["ppo.stop_kl ended 2 of 3 steps early."],
        ),
        (
            [{"servers/left": n} for n in (0, 2, 1)],
            ["A server left, up to 2 times in one start of the trainer."],
        ),
    ],
)
def test_what_went_wrong_in_single_steps_is_said(rows: list[Metrics], said: list[str]) -> None:
    assert incidents_of(run_of(*rows)) == said
