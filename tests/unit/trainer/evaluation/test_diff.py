"""Two models side by side: what is won, what is lost, and nothing read as markup."""

from pathlib import Path

import pytest

from trainer.errors import UsageError
from trainer.evaluation.diff import print_diff
from trainer.evaluation.records import (
    Answer,
    ModelAnswers,
    QuestionAnswers,
    answers_path,
    write_answers,
)


def answer(text: str) -> ModelAnswers:
    return ModelAnswers(greedy=Answer.of(text, "#### 7", num_tokens=3, truncated=False), arms=None)


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    texts = [
        ("#### 8", "[bold]seven[/bold]\n#### 7"),
        ("#### 7", "no idea"),
        ("#### 7", "#### 7"),
        ("#### 9", "#### 7"),
    ]
    questions = [
        QuestionAnswers(
            id=f"q{i}",
            question=f"[i]3 + 4?[/i] ({i})",
            gold="3 + 4 = 7\n#### 7",
            models={"SFT": answer(old), "PPO": answer(new)},
        )
        for i, (old, new) in enumerate(texts)
    ]
    path = tmp_path / "evaluation.json"
    write_answers(answers_path(path), questions)
    return path


def test_won_and_lost_questions_are_shown(
    evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_diff(evaluation, "SFT", "PPO", limit=5)
    printed = capsys.readouterr().out
    won, lost = printed.split("PPO wrong, SFT right")
    assert "PPO right, SFT wrong: 2 of 4 questions" in won
    assert "[bold]seven[/bold]" in won
    assert "[i]3 + 4?[/i] (0)" in won
    assert "✓ 7" in won
    assert "✗ 8" in won
    assert "q3" in won
    assert ": 1 of 4 questions" in lost
    assert "✗ no answer" in lost
    assert "q2" not in printed


def test_the_limit_holds_for_each(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_diff(evaluation, "SFT", "PPO", limit=1)
    printed = capsys.readouterr().out
    assert "q0" in printed
    assert "q3" not in printed
    print_diff(evaluation, "SFT", "PPO", limit=0)
    assert "3 + 4" not in capsys.readouterr().out


def test_a_run_has_its_evaluation_and_the_last_two_models_are_compared(
    evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_diff(evaluation.parent, None, None, limit=0)
    shown = capsys.readouterr().out
    assert "PPO right, SFT wrong: 2 of 4 questions" in shown
    assert "PPO wrong, SFT right: 1 of 4 questions" in shown


def test_one_model_differs_from_none(tmp_path: Path) -> None:
    question = QuestionAnswers(id="q", question="?", gold="7", models={"SFT": answer("#### 7")})
    write_answers(answers_path(tmp_path / "evaluation.json"), [question])
    with pytest.raises(UsageError, match="needs two evaluated models; it has 1"):
        print_diff(tmp_path, None, None, limit=1)


def test_questions_of_different_models_are_named(tmp_path: Path) -> None:
    models = {"SFT": answer("#### 7"), "PPO": answer("#### 7")}
    questions = [
        QuestionAnswers(id=f"q{i}", question="?", gold="7", models=asked)
        for i, asked in enumerate([models, {"SFT": models["SFT"]}])
    ]
    write_answers(answers_path(tmp_path / "evaluation.json"), questions)
    with pytest.raises(UsageError, match=r"answers\.jsonl: q1 was asked of SFT, and the first"):
        print_diff(tmp_path, None, None, limit=1)


def test_a_label_that_was_not_evaluated_is_refused(evaluation: Path) -> None:
    with pytest.raises(UsageError, match="'Base' is not one of the evaluated models: SFT, PPO"):
        print_diff(evaluation, "Base", "PPO", limit=1)
