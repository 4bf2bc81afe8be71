"""The verdict of a run without evaluation.json that evaluated itself (`run.evaluate_every`)."""

import dataclasses
from pathlib import Path

import pytest

from trainer.config.sections import TrainConfig
from trainer.evaluation.statistics import difference_interval
from trainer.io.metrics_file import Metrics
from trainer.report.findings.ranking import findings_of
from trainer.report.run_record import RunRecord
from trainer.report.verdict import Outcome, verdict_of


def evaluation(step: int, num_correct: int, num_questions: int = 200) -> Metrics:
    """A line of an evaluation alone, as a run writes one that ends after its step."""
    return {
        "step": step,
        "eval/step": step,
        "eval/version": step + 1,
        "eval/accuracy": num_correct / num_questions,
        "eval/num_questions": num_questions,
        "eval/best_step": 4,
    }


def run_with(*evaluations: Metrics, follows_correct: float = 0.95) -> RunRecord:
    rows = [
        {"step": step, "version": step + 1, "reward/follows_correct": follows_correct}
        for step in range(1, 17)
    ]
    return RunRecord(
        folder=Path("runs/x"),
        rows=rows,
        config_text=None,
        config=TrainConfig(),
        has_evaluation=False,
        evaluation=None,
        late_evaluations=list(evaluations),
    )


@pytest.mark.parametrize(
    ("counts", "outcome", "answer", "said"),
    [
        (
            {0: 144, 4: 190, 16: 187},
            Outcome.HELPING,
            "Yes.",
            "from 72.0% [65.4, 77.8] at the start to 93.5% [89.2, 96.2] at step 16, of 200 questions: +21.5 points [",
        ),
        ({0: 144, 16: 100}, Outcome.HURTING, "No, it hurts.", "-22.0 points ["),
        ({0: 144, 16: 150}, Outcome.UNDECIDED, "Inconclusive.", "+3.0 points ["),
        (
            {4: 100, 16: 150},
            Outcome.HELPING,
            "Yes, since step 4.",
            "No evaluation of the run's start is recorded.",
        ),
        ({4: 150, 16: 100}, Outcome.HURTING, "No, it hurts, since step 4.", "50.0% [43.1, 56.9]"),
        ({16: 150}, Outcome.UNMEASURED, "Not measured.", "only evaluation so far"),
        ({}, Outcome.UNMEASURED, "Not measured.", "Evaluate the run's starting point"),
    ],
)
def test_the_first_and_the_newest_evaluation_are_compared(
    counts: dict[int, int], outcome: Outcome, answer: str, said: str
) -> None:
    verdict = verdict_of(run_with(*(evaluation(*found) for found in counts.items())))
    assert (verdict.outcome, verdict.answer) == (outcome, answer)
    assert said in verdict.evidence
    assert "python -m trainer eval --models" in verdict.evidence
    assert not verdict.is_paired


def test_the_interval_is_that_of_two_independent_shares_and_the_best_is_named() -> None:
    verdict = verdict_of(run_with(evaluation(0, 144), evaluation(4, 190), evaluation(16, 187)))
    low, high = (100 * end for end in difference_interval((187, 200), (144, 200)))
    assert f"[{low:+.1f}, {high:+.1f}]" in verdict.evidence
    assert "The best was 95.0% at step 4." in verdict.evidence
    # The best is not named a second time where it is the newest.
    rising = verdict_of(run_with(evaluation(0, 144), evaluation(16, 187)))
    assert "The best was" not in rising.evidence


def test_evaluations_of_different_sizes_and_in_rows_of_steps_are_compared_too() -> None:
    run = run_with(evaluation(0, 30, 50))
    run.rows[-1] |= evaluation(16, 187) | {"eval/step": 12}
    verdict = verdict_of(run)
    assert "at step 12, of 50 and 200 questions" in verdict.evidence
    assert verdict.outcome is Outcome.HELPING


def test_a_gain_that_the_reward_did_not_pay_for_gets_no_credit() -> None:
    run = run_with(evaluation(0, 100), evaluation(16, 190), follows_correct=0.0)
    assert verdict_of(run).outcome is Outcome.UNEARNED


def test_evaluations_that_did_not_count_their_questions_are_not_compared() -> None:
    rows = [evaluation(0, 100), evaluation(16, 190)]
    old = [{k: v for k, v in row.items() if k != "eval/num_questions"} for row in rows]
    assert verdict_of(run_with(*old)).outcome is Outcome.UNMEASURED


def test_a_fall_below_the_start_alone_is_no_fall_from_the_best_version() -> None:
    """The verdict says that it hurts; no adapter of the run is better than its newest."""
    fallen = run_with(evaluation(0, 190), evaluation(4, 100), evaluation(16, 100))
    assert findings_of(fallen, helps=False) == ()
    (finding,) = findings_of(
        dataclasses.replace(fallen, late_evaluations=[evaluation(4, 190), evaluation(16, 100)]),
        helps=False,
    )
    assert finding.name == "past_its_best"
    assert finding.evidence.startswith("Held-out accuracy was 95.0% at step 4 and ended at 50.0%")
