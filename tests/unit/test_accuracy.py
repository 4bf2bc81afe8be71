"""Accuracies and differences: published intervals, properties of the bootstrap, file and table."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from trainer.accuracy import (
    Answer,
    EvaluatedQuestion,
    Evaluation,
    ModelResult,
    PairedDifference,
    paired_bootstrap_interval,
    print_table,
    wilson_interval,
)

# Newcombe (1998), Statistics in Medicine 17:857, table I: the score method without correction.
PUBLISHED = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


def result(label: str, correct: list[bool]) -> ModelResult:
    answers = [Answer(text="#### 7", answer="7", correct=c) for c in correct]
    return ModelResult.of(label=label, model=label.lower(), answers=answers)


def evaluation(*models: ModelResult) -> Evaluation:
    return Evaluation(
        base_model="models/tiny-base",
        data="word-problems",
        data_seed=0,
        arm="wolfram_0",
        max_tokens=64,
        questions=tuple(
            EvaluatedQuestion(id=f"q{i}", question="1 + 1?", gold="#### 2")
            for i in range(models[0].num_questions)
        ),
        models=models,
        differences=tuple(
            PairedDifference.of(baseline=old, model=new)
            for i, new in enumerate(models)
            for old in models[:i]
        ),
    )


@pytest.mark.parametrize(("num_correct", "num_questions", "low", "high"), PUBLISHED)
def test_wilson_interval_is_the_published_one(
    num_correct: int, num_questions: int, low: float, high: float
) -> None:
    assert wilson_interval(num_correct, num_questions) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_of_all_right_mirrors_that_of_none() -> None:
    none_low, none_high = wilson_interval(0, 20)
    assert wilson_interval(20, 20) == pytest.approx((1 - none_high, 1 - none_low))


def test_an_answer_is_read_and_compared_exactly() -> None:
    assert Answer.of("3 + 4 = 7\n#### 7.00", "#### 7") == Answer(
        text="3 + 4 = 7\n#### 7.00", answer="7", correct=True
    )
    assert not Answer.of("#### 7.01", "#### 7").correct
    assert Answer.of("I give up.", "#### 7") == Answer(
        text="I give up.", answer=None, correct=False
    )


def test_results_count_their_answers() -> None:
    answers = [Answer.of(text, "#### 7") for text in ("#### 7", "#### 8", "no idea", "#### 7")]
    counted = ModelResult.of(label="Base", model="base", answers=answers)
    assert (counted.num_correct, counted.num_questions) == (2, 4)
    assert (counted.accuracy, counted.answered) == (0.5, 0.75)


def test_identical_models_differ_by_exactly_nothing() -> None:
    answers = [True, False, True, True]
    same = PairedDifference.of(baseline=result("A", answers), model=result("B", answers))
    assert (same.points, same.low, same.high) == (0.0, 0.0, 0.0)


def test_a_model_that_wins_every_question_is_a_hundred_points_better() -> None:
    best = PairedDifference.of(baseline=result("A", [False] * 9), model=result("B", [True] * 9))
    assert (best.points, best.low, best.high) == (100.0, 100.0, 100.0)


def test_the_interval_has_the_normal_width_where_that_holds() -> None:
    # Mean 0.2; variance of one gain (120 + 40)/400 − 0.2² = 0.36; 1.96 sqrt(0.36/400) = 0.0588.
    gains = [1] * 120 + [-1] * 40 + [0] * 240
    assert paired_bootstrap_interval(gains) == pytest.approx((0.1412, 0.2588), abs=0.004)


def test_pairing_ignores_what_both_models_find_hard() -> None:
    # The same five wins: between models that agree elsewhere they say much more than n = 400 does.
    hard = [i % 2 == 0 for i in range(395)]
    difference = PairedDifference.of(
        baseline=result("A", hard + [False] * 5), model=result("B", hard + [True] * 5)
    )
    assert difference.points == pytest.approx(1.25)
    assert difference.low > 0
    assert difference.high < 3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_interval_holds_the_point_estimate_and_mirrors(pairs: list[tuple[bool, bool]]) -> None:
    old = result("A", [a for a, _ in pairs])
    new = result("B", [b for _, b in pairs])
    forward = PairedDifference.of(baseline=old, model=new)
    backward = PairedDifference.of(baseline=new, model=old)
    assert -100 <= forward.low <= forward.points <= forward.high <= 100
    assert forward.points == -backward.points
    assert backward.low <= backward.points <= backward.high


def test_models_of_different_questions_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        PairedDifference.of(baseline=result("A", [True]), model=result("B", [True, False]))


def test_the_file_reads_back_as_what_was_written(tmp_path: Path) -> None:
    written = evaluation(result("Base", [True, False]), result("PPO", [True, True]))
    written.write(tmp_path / "evaluation.json")
    assert Evaluation.read(tmp_path / "evaluation.json") == written
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text('{"models": []}')
    with pytest.raises(ValidationError):
        Evaluation.read(tmp_path / "evaluation.json")


def test_the_table_in_a_pipe_is_plain_and_never_wrapped_or_cut() -> None:
    long = "PPO with a label that is much longer than any terminal of eighty columns " * 2
    shown = evaluation(
        result("Base [bold]x[/bold]", [True, False, False, False]),
        result(long.strip(), [True, True, True, True]),
    )
    out = io.StringIO()
    print_table(shown, Console(file=out, width=40))
    text = out.getvalue()
    assert "\x1b" not in text
    assert "…" not in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == shown.summary
    assert "Base [bold]x[/bold] 25.0% [4.6, 69.9] 100.0%" in lines
    assert f"{long.strip()} 100.0% [51.0, 100.0] 100.0%" in lines
    (difference,) = (line for line in lines if "points" in line)
    assert difference.startswith(
        f"{long.strip()} − Base [bold]x[/bold] +75.0 points [+25.0, +100.0]"
    )


def test_a_difference_that_rounds_to_zero_has_no_minus_sign() -> None:
    cells = PairedDifference(label="B", baseline="A", points=-0.01, low=-2.25, high=1.5).cells
    assert cells == ("B − A", "+0.0 points", "[-2.2, +1.5]")
