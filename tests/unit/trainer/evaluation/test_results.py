"""How answers are summed up: counts by hand, properties of differences, file and table."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from inference_server.wire.schemas import ArmCompletion, ArmGroup, FinishReason
from regime_w import ArmOutput, answer_type_of, compute_regime_w_scores
from regime_w.answer_types.answer_type import AnswerTypeName
from trainer.data.sources import Record
from trainer.errors import DataError, UsageError
from trainer.evaluation.arms_results import ArmsResult
from trainer.evaluation.calibration import Calibration
from trainer.evaluation.candidates import EvaluatedModel
from trainer.evaluation.records import (
    Answer,
    ArmsAnswer,
    ModelAnswers,
    QuestionAnswers,
    answers_path,
    read_answers,
    write_answers,
)
from trainer.evaluation.results import (
    Evaluation,
    ModelResult,
    PairedDifference,
    compare_all,
)
from trainer.evaluation.statistics import mcnemar_p_value
from trainer.evaluation.tables import print_table, signed, tables_of

NAMES = ("wolfram_0", "wolfram_1", "maudlin_0", "maudlin_1")
RECORD = Record(id="q", question="3 + 4?", gold="#### 7")


def greedy(correct: bool) -> Answer:
    text = "#### 7" if correct else "no idea"
    return Answer.of(text, RECORD.gold, num_tokens=4, truncated=not correct)


def arms(*answers: int | None) -> ArmsAnswer:
    """Two families of two arms; an arm for each answer."""
    completions = [
        ArmCompletion(
            arm=name,
            sample=0,
            text="no idea" if answer is None else f"#### {answer}",
            finish_reason=FinishReason.LENGTH if answer is None else FinishReason.STOP,
            temperature=0.2,
            top_p=0.9,
            seed=1,
            prompt_token_ids=[1],
            token_ids=[1, 2, 3] if answer is None else [1],
            logprobs=[-0.1, -0.1, -0.1] if answer is None else [-0.1],
        )
        for name, answer in zip(NAMES, answers, strict=True)
    ]
    group = ArmGroup(id="q", question=RECORD.question, policy_version=1, arms=completions)
    return ArmsAnswer.of(group, RECORD)


def questions(**models: Sequence[bool]) -> list[QuestionAnswers]:
    """One question per index, on which each model is correct or not."""
    return [
        QuestionAnswers(
            id=f"q{index}",
            question=RECORD.question,
            gold=RECORD.gold,
            models={
                label: ModelAnswers(greedy=greedy(is_right), arms=None)
                for label, is_right in zip(models, correct, strict=True)
            },
        )
        for index, correct in enumerate(zip(*models.values(), strict=True))
    ]


def evaluation(asked: Sequence[QuestionAnswers]) -> Evaluation:
    labels = list(asked[0].models)
    return Evaluation(
        base_model="models/tiny-base",
        base_fingerprint=None,
        data="word-problems",
        data_seed=0,
        num_questions=len(asked),
        arm="wolfram_0",
        samples_per_arm=0,
        seed=0,
        max_tokens=64,
        answer_type="number",
        prompt_format="plain",
        stop=(),
        models=tuple(
            ModelResult.of(label, EvaluatedModel(name=label.lower(), adapter_sha256=None), asked)
            for label in labels
        ),
        differences=compare_all(labels, asked),
    )


# --- answers ----------------------------------------------------------------------------------


def test_an_answer_is_read_and_compared_exactly() -> None:
    found = Answer.of("3 + 4 = 7\n#### 7.00", "#### 7", num_tokens=9, truncated=False)
    assert (found.answer, found.correct, found.num_tokens) == ("7", True, 9)
    assert not Answer.of("#### 7.01", "#### 7", num_tokens=9, truncated=False).correct
    silent = Answer.of("I give up.", "#### 7", num_tokens=3, truncated=True)
    assert (silent.answer, silent.correct, silent.truncated) == (None, False, True)


@pytest.mark.parametrize(
    ("text", "kind", "gold", "correct", "strict"),
    [
        ("3 + 4 = 7\n#### 7", "number", "7", True, True),
        ("3 + 4 = 7, so \\boxed{7.00}.", "number", "7", True, True),
        ("She has 3 + 4 = 7", "number", "7", True, False),
        ("The answer is 7.", "number", "7", True, False),
        ("<think>#### 7</think>It is 7", "number", "7", True, False),
        ("#### 8", "number", "7", False, False),
        ("The answer is B.", "choice", "B", True, False),
        ("#### b)", "choice", "B", True, True),
        ("Mary Shelley", "text", "Mary Shelley", True, False),
        ("\\boxed{Mary Shelley}", "text", "Mary Shelley", True, True),
        # A marker or a box elsewhere in the text is not where the answer stands.
        ("#### Step 2: add\nThe answer is 7.", "number", "7", True, False),
        ("#### Final Answer\nMary sold 7 apples.", "number", "7", True, False),
        ("#### Step 2: add\nSo \\boxed{7}.", "number", "7", True, True),
        ("#### Answer\n7", "number", "7", True, True),
        ("~~#### 8~~ The answer is 7.", "number", "7", True, False),
        ("~~\\boxed{8}~~ It is 7", "number", "7", True, False),
        ("#### Step 2: compare\nThe answer is B.", "choice", "B", True, False),
        ("The answer is B.<|im_end|>#### A", "choice", "B", True, False),
        ("~~#### A~~ The answer is B.", "choice", "B", True, False),
        ("#### Step 1: look\nThe answer is Mary Shelley.", "text", "Mary Shelley", True, False),
        ("The answer is x + 1.", "math", "x + 1", True, False),
        ("#### Step 2: add\nThe answer is $x + 1$.", "math", "x + 1", True, False),
        ("So \\boxed{x + 1}.", "math", "x + 1", True, True),
    ],
)
def test_an_answer_counts_strictly_where_it_stands_in_the_form_that_was_asked_for(
    text: str, kind: AnswerTypeName, gold: str, correct: bool, strict: bool
) -> None:
    answer_type = answer_type_of(kind)
    found = Answer.of(text, gold, num_tokens=1, truncated=False, answer_type=answer_type)
    assert (found.correct, found.strictly_correct(answer_type)) == (correct, strict)


def test_strict_accuracy_stands_beside_the_lenient_one() -> None:
    def asked(text: str) -> QuestionAnswers:
        answer = Answer.of(text, "7", num_tokens=1, truncated=False)
        return QuestionAnswers(
            id=text, question="?", gold="7", models={"PPO": ModelAnswers(greedy=answer, arms=None)}
        )

    found = evaluation([asked("#### 7"), asked("It is 7"), asked("So 7"), asked("8")])
    (model,) = found.models
    assert (model.accuracy.value, model.strict.value) == (0.75, 0.25)
    assert [row[:4] for row in tables_of(found)[0].rows] == [
        ("PPO", "75.0%", tables_of(found)[0].rows[0][2], "25.0%")
    ]


def test_scores_of_an_evaluation_do_not_know_the_gold_answer() -> None:
    # Agreement on a wrong answer is agreement: s_cf of training would be 0 here.
    wrong, right = arms(8, 8, 8, 8), arms(7, 7, 7, 7)
    assert (wrong.s_end, wrong.s_cf) == (right.s_end, right.s_cf) == (1.0, 1.0)
    assert (wrong.consensus, wrong.consensus_correct) == ("8", False)
    assert right.consensus_correct
    outputs = [ArmOutput.from_text(name, "#### 8") for name in NAMES]
    assert compute_regime_w_scores("", outputs, RECORD.gold).s_cf == 0.0


def test_the_consensus_is_the_most_frequent_answer_and_silence_none() -> None:
    assert arms(None, 7, 8, 7).consensus == "7"
    assert arms(8, 7, None, None).consensus == "8"
    silent = arms(None, None, None, None)
    assert (silent.consensus, silent.consensus_correct) == (None, False)


def test_the_answers_file_reads_back_line_by_line(tmp_path: Path) -> None:
    path = answers_path(tmp_path / "evaluation.json")
    written = questions(Base=[True, False], PPO=[True, True])
    write_answers(path, written)
    assert list(read_answers(path)) == written
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.answers.jsonl"]
    with path.open("a") as file:
        file.write('{"id": "q"}\n')
    with pytest.raises(DataError, match=r"answers\.jsonl:3: question"):
        list(read_answers(path))
    with pytest.raises(UsageError, match="there is no"):
        list(read_answers(tmp_path / "nothing"))


# --- models -----------------------------------------------------------------------------------


def test_greedy_answers_are_counted() -> None:
    (model,) = evaluation(questions(Base=[True, False, False, True])).models
    assert model.accuracy.value == 0.5
    assert (model.accuracy.low, model.accuracy.high) == pytest.approx((0.150, 0.850), abs=1e-3)
    assert model.completions.answered == 0.5
    assert model.completions.truncated == 0.5
    assert model.completions.mean_tokens == 4.0
    assert model.arms is None


def test_arms_are_counted_by_hand() -> None:
    found = ArmsResult.of([arms(7, 7, 8, None), arms(8, 7, 8, 9), arms(7, 7, 7, 7)])
    assert found.num_completions == 4
    # 2, 1 and 4 of 4 are right: 1 − C(4−c, 2)/C(4, 2) is 5/6, 1/2 and 1.
    assert {at.k: at.chance.value for at in found.pass_at} == pytest.approx(
        {1: 7 / 12, 2: (5 / 6 + 1 / 2 + 1) / 3, 4: 1.0}
    )
    assert found.consensus.value == pytest.approx(2 / 3)
    assert {arm.arm: arm.accuracy.value for arm in found.by_arm} == pytest.approx(
        {"wolfram_0": 2 / 3, "wolfram_1": 1.0, "maudlin_0": 1 / 3, "maudlin_1": 1 / 3}
    )
    assert found.completions.answered == pytest.approx(11 / 12)
    assert found.completions.truncated == pytest.approx(1 / 12)
    assert found.by_arm[3].completions.mean_tokens == pytest.approx((3 + 1 + 1) / 3)
    # Pairs of equal answers: 1, 1 and 6 of 6.
    assert found.scores["s_end"] == pytest.approx((1 + 1 + 6) / 18)


# --- calibration ------------------------------------------------------------------------------


def test_reliability_has_a_bin_for_each_tenth_that_is_not_empty() -> None:
    found = Calibration.of(
        [0.05, 0.0, 0.55, 0.5, 1.0, 0.95, None], [False, False, True, False, True, True, True]
    )
    assert [(b.num_questions, b.mean_score, b.share_correct) for b in found.bins] == [
        (2, 0.025, 0.0),
        (2, 0.525, 0.5),
        (2, 0.975, 1.0),
    ]
    assert found.auc == pytest.approx(1.0)
    for b in found.bins:
        assert b.low <= b.share_correct <= b.high


def test_calibration_of_nothing_says_nothing() -> None:
    for scores, correct in (([None, None], [True, False]), ([0.1, 0.2], [True, True])):
        found = Calibration.of(scores, correct)
        assert (found.auc, found.low, found.high) == (None, None, None)


# --- differences ------------------------------------------------------------------------------


def difference(old: Sequence[bool], new: Sequence[bool]) -> PairedDifference:
    return PairedDifference.of(
        label="New", baseline="Old", measure="greedy", questions=questions(Old=old, New=new)
    )


def test_identical_models_differ_by_nothing_as_far_as_so_many_questions_tell() -> None:
    same = [difference([True, False] * n, [True, False] * n) for n in (2, 200)]
    assert [(found.points, found.p_value) for found in same] == [(0.0, 1.0)] * 2
    assert [found.high == -found.low for found in same] == [True] * 2
    assert same[0].high > 30
    assert same[1].high < 1


def test_a_model_that_wins_every_question_is_a_hundred_points_better() -> None:
    best = difference([False] * 9, [True] * 9)
    assert (best.points, best.high) == (100.0, 100.0)
    assert 40 < best.low < 60
    assert (best.num_won, best.num_lost) == (9, 0)
    assert best.p_value == pytest.approx(2 / 2**9)


def test_pairing_ignores_what_both_models_find_hard() -> None:
    # The same five wins: between models that agree elsewhere they say much more than n = 400 does.
    hard = [i % 2 == 0 for i in range(395)]
    found = difference(hard + [False] * 5, hard + [True] * 5)
    assert found.points == pytest.approx(1.25)
    assert found.p_value == 2 / 2**5
    assert -0.1 < found.low < 0
    assert found.high < 3


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_interval_holds_the_point_estimate_and_mirrors(pairs: list[tuple[bool, bool]]) -> None:
    old, new = [a for a, _ in pairs], [b for _, b in pairs]
    forward, backward = difference(old, new), difference(new, old)
    assert -100 <= forward.low <= forward.points <= forward.high <= 100
    assert forward.points == -backward.points
    assert backward.low <= backward.points <= backward.high
    assert forward.p_value == backward.p_value == mcnemar_p_value(forward.num_won, forward.num_lost)
    assert (forward.num_won, forward.num_lost) == (backward.num_lost, backward.num_won)


def test_the_arms_are_compared_too() -> None:
    asked = [
        QuestionAnswers(
            id="q",
            question=RECORD.question,
            gold=RECORD.gold,
            models={
                "Old": ModelAnswers(greedy=greedy(True), arms=arms(7, 8, 8, None)),
                "New": ModelAnswers(greedy=greedy(True), arms=arms(7, 7, 8, None)),
            },
        )
    ]
    by_measure = {d.measure: d for d in compare_all(["Old", "New"], asked)}
    assert by_measure["greedy"].points == 0.0
    assert by_measure["pass@1"].points == 25.0
    assert by_measure["pass@1"].p_value is None
    assert (by_measure["maj"].points, by_measure["maj"].p_value) == (100.0, 1.0)


# --- file and table ---------------------------------------------------------------------------


def test_the_file_reads_back_as_what_was_written(tmp_path: Path) -> None:
    written = evaluation(questions(Base=[True, False], PPO=[True, True]))
    written.write(tmp_path / "evaluation.json")
    assert Evaluation.read(tmp_path / "evaluation.json") == written
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text('{"models": []}')
    with pytest.raises(ValidationError):
        Evaluation.read(tmp_path / "evaluation.json")


def printed(shown: Evaluation, *, width: int | None = None) -> list[str]:
    out = io.StringIO()
    print_table(shown, Console(file=out, width=width))
    text = out.getvalue()
    assert "\x1b" not in text
    assert "…" not in text
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_table_in_a_pipe_is_plain_and_never_wrapped_or_cut() -> None:
    long = "PPO with a label that is much longer than any terminal of eighty columns " * 2
    label = long.strip()
    shown = evaluation(
        questions(
            **{"Base [bold]x[/bold]": [True, False, False, False], label: [True, True, True, True]}
        )
    )
    lines = printed(shown, width=40)
    assert lines[0] == shown.summary
    assert "Base [bold]x[/bold] 25.0% [4.6, 69.9] 25.0% 25.0% 75.0% 4.0" in lines
    assert f"{label} 100.0% [51.0, 100.0] 100.0% 100.0% 0.0% 4.0" in lines
    assert f"{label} − Base [bold]x[/bold] +75.0 [-11.1, +100.0] 3 0 0.25" in lines


def test_the_table_shows_the_arms_where_they_were_asked() -> None:
    asked = [
        QuestionAnswers(
            id=f"q{i}",
            question=RECORD.question,
            gold=RECORD.gold,
            models={
                "Base": ModelAnswers(greedy=greedy(True), arms=arms(*answers)),
                "PPO": ModelAnswers(greedy=greedy(True), arms=arms(7, 7, 7, 7)),
            },
        )
        for i, answers in enumerate([(7, 7, 8, None), (8, 8, 8, 8)])
    ]
    lines = printed(evaluation(asked))
    assert any(line.startswith("pass@1 25.0% [") for line in lines)
    assert any(line.startswith("maj@4 50.0% [") for line in lines)
    assert any(line.startswith("wolfram_1 50.0% [9.5, 90.5] 100.0% [") for line in lines)
    assert any(line.startswith("AUC of coherence 0.000 [") and line.endswith("–") for line in lines)
    assert any(line.startswith("PPO − Base, maj@4 +50.0 [") for line in lines)


def test_a_difference_that_rounds_to_zero_has_no_minus_sign() -> None:
    assert (signed(-0.01), signed(-2.25), signed(1.5)) == ("+0.0", "-2.2", "+1.5")


def test_answers_are_read_and_compared_by_their_type() -> None:
    kind = answer_type_of("choice", ["Paris", "Rome"])
    found = Answer.of("So Rome.\n#### B", "Rome", num_tokens=9, truncated=False, answer_type=kind)
    assert (found.answer, found.correct) == ("B", True)
    record = Record(id="q", question="Where?", gold="B", answer_type=kind)
    completions = [
        ArmCompletion(
            arm=name,
            sample=0,
            text=text,
            finish_reason=FinishReason.STOP,
            temperature=1.0,
            top_p=1.0,
            seed=None,
            prompt_token_ids=[],
            token_ids=[1],
            logprobs=[],
        )
        for name, text in zip(NAMES, ("#### B", "Rome", "#### A", "who knows"), strict=True)
    ]
    group = ArmGroup(id="q", question="Where?", policy_version=1, arms=completions)
    of_arms = ArmsAnswer.of(group, record)
    assert [each.answer for each in of_arms.completions] == ["B", "B", "A", None]
    assert (of_arms.consensus, of_arms.consensus_correct) == ("B", True)
