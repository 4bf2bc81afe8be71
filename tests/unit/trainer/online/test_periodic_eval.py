"""Evaluation while training continues: one at a time, never in the way, and the best is remembered."""

import json
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.unit.server_stub import ServerStub
from tests.unit.versions_in_memory import STATUS, versions_for
from trainer.client.protocol import GreedyPrompt, TextCompletion
from trainer.config.sections import DataConfig, PolicyConfig, RolloutConfig, RunConfig, TrainConfig
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.errors import ServerError, ServerRejectedError
from trainer.online.asked_questions import fitting_held_out, fitting_questions, load_questions
from trainer.online.periodic_eval import HeldOutEvaluations
from trainer.online.published import Published
from trainer.run_state.best import read_best
from trainer.run_state.journal import Journal
from trainer.run_state.run_adapters import RunAdapters

RECORDS = load_records("word-problems", Split.HELD_OUT, num_records=4, seed=5)


class FakeClient(ServerStub):
    """Solves ``num_right`` of the questions, and answers only once ``may_answer`` is set."""

    def __init__(self) -> None:
        self.may_answer = anyio.Event()
        self.num_right = 0
        self.error: Exception | None = None
        self.asked: list[tuple[int | None, list[str], GreedyPrompt]] = []

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        self.asked.append((version, questions, prompt))
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        wrong = ["no idea"] * (len(questions) - self.num_right)
        texts = [*(record.gold for record in RECORDS[: self.num_right]), *wrong]
        return [TextCompletion(text=text, num_tokens=4, truncated=False) for text in texts]


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal
        # A test that fails may leave a question that nobody will answer.
        portal.call(portal.stop, True)


class Run:
    """A run that is evaluated every second step, unless ``every`` says otherwise."""

    def __init__(
        self, folder: Path, portal: BlockingPortal, num_steps: int = 4, every: int | None = 2
    ) -> None:
        self.folder = folder
        self.portal = portal
        self.client = portal.call(FakeClient)
        self.said: list[str] = []
        config = TrainConfig(
            data=DataConfig(seed=5),
            rollout=RolloutConfig(max_tokens=17),
            run=RunConfig(
                folder=folder,
                num_steps=num_steps,
                evaluate_every=every,
                num_evaluation_questions=len(RECORDS),
                return_to_best=every is not None,
            ),
        )
        with Journal(folder) as journal:
            adapters = RunAdapters(folder / "adapters", journal)
        questions = fitting_held_out(
            load_questions(config).held_out, config, STATUS, self.said.append
        )
        self.evaluations = HeldOutEvaluations(
            versions_for(self.client, portal, adapters), config, questions, self.said.append
        )

    def start(self, step: int) -> None:
        folder = self.folder / "adapters" / f"policy-{step + 10:06d}"
        published = Published(version=step + 10, folder=folder, sha256="")
        self.evaluations.start(step, published)

    def answer(self, num_right: int) -> None:
        self.client.num_right = num_right
        self.portal.call(self.client.may_answer.set)

    def evaluate(self, step: int, num_right: int) -> dict[str, float]:
        self.client.num_right = num_right
        self.start(step)
        self.answer(num_right)
        return self.evaluations.collect(wait=True)


@pytest.fixture
def run(tmp_path: Path, portal: BlockingPortal) -> Run:
    return Run(tmp_path, portal)


def test_training_continues_until_the_answers_are_there(run: Run) -> None:
    assert run.evaluations.collect(wait=True) == {}
    run.start(2)
    assert run.evaluations.evaluating == 2
    assert run.evaluations.collect(wait=False) == {}
    run.answer(3)
    assert run.evaluations.collect(wait=True) == {
        "eval/accuracy": 0.75,
        "eval/low": pytest.approx(0.301, abs=1e-3),
        "eval/high": pytest.approx(0.954, abs=1e-3),
        "eval/num_questions": 4,
        "eval/step": 2,
        "eval/version": 12,
        "eval/best_accuracy": 0.75,
        "eval/best_step": 2,
    }
    assert run.evaluations.evaluating is None
    assert run.evaluations.collect(wait=True) == {}
    ((version, questions, prompt),) = run.client.asked
    assert (version, prompt.max_tokens) == (12, 17)
    assert questions == [record.question for record in RECORDS]
    assert run.said == []


def test_the_best_of_a_run_outlives_it(run: Run, portal: BlockingPortal) -> None:
    accuracies = [run.evaluate(2 * i, n)["eval/best_accuracy"] for i, n in enumerate((1, 3, 2), 1)]
    assert accuracies == [0.25, 0.75, 0.75]
    resumed = Run(run.folder, portal)
    # As good is not better: the earlier one has seen less.
    assert resumed.evaluate(8, 3)["eval/best_step"] == 4
    best = read_best(run.folder)
    assert best is not None
    assert (best.step, best.version, best.adapter) == (4, 14, "adapters/policy-000014")
    assert resumed.evaluate(10, 4)["eval/best_step"] == 10


def test_the_version_that_a_run_begins_with_is_never_the_best(run: Run) -> None:
    assert run.evaluations.newest_due(1) == 0
    start = run.evaluate(0, 4)
    assert (start["eval/accuracy"], start["eval/step"], start["eval/version"]) == (1.0, 0, 10)
    assert "eval/best_step" not in start
    assert read_best(run.folder) is None
    assert run.evaluate(2, 0)["eval/best_step"] == 2
    assert run.evaluations.better_to_go_on_from() is None


def test_a_start_owes_the_evaluation_of_the_beginning_once(
    run: Run, portal: BlockingPortal
) -> None:
    owed = run.evaluations.owed
    assert [owed(0, None), owed(3, None), owed(1, 0), owed(3, 0), owed(3, 2)] == [
        *((0, 0), (0, 2), (), (2,), ())
    ]
    assert Run(run.folder, portal, every=None).evaluations.owed(3, None) == ()
    run.evaluate(2, 1)
    # The record of it was lost.
    assert run.evaluations.owed(3, None) == (2,)


def test_the_best_is_kept_by_a_start_that_evaluates_nothing(
    run: Run, portal: BlockingPortal
) -> None:
    run.evaluate(2, 3)
    resumed = Run(run.folder, portal, every=None)
    assert resumed.evaluations.versions == {12}
    assert not resumed.evaluations.is_due(4)
    assert resumed.evaluations.better_to_go_on_from() is None


@pytest.mark.parametrize(
    ("best", "newer", "is_worse"), [(4, 3, False), (4, 2, False), (4, 0, True), (1, 0, False)]
)
def test_what_chance_explains_is_no_fall(best: int, newer: int, is_worse: bool, run: Run) -> None:
    for step, num_right in ((2, best), (4, newer)):
        assert run.evaluations.better_to_go_on_from() is None
        run.evaluate(step, num_right)
    returns_to = run.evaluations.better_to_go_on_from()
    assert (returns_to is not None and returns_to.step == 2) == is_worse
    assert run.evaluations.better_to_go_on_from() is None


@pytest.mark.parametrize(("num_steps", "is_worse"), [(1, True), (15, True), (16, False)])
def test_of_many_evaluations_the_luckiest_is_far_ahead(
    num_steps: int, is_worse: bool, tmp_path: Path, portal: BlockingPortal
) -> None:
    # From all of four to none: upper end √2·z²/(4 + z²) - 1, below 0 up to z = 3.11, which is 0.05 / 26. Seven
    # evaluations have 21 pairs, eight have 28.
    run = Run(tmp_path, portal, num_steps=num_steps)
    for step, num_right in ((2, 4), (4, 0)):
        run.evaluate(step, num_right)
    assert (run.evaluations.better_to_go_on_from() is not None) == is_worse


def test_an_evaluation_that_is_due_too_early_is_left_out_with_a_word(run: Run) -> None:
    run.start(2)
    run.start(4)
    (said,) = run.said
    assert "step 4" in said
    assert "run.evaluate_every" in said
    run.answer(1)
    assert run.evaluations.collect(wait=True)["eval/step"] == 2
    assert len(run.client.asked) == 1


@pytest.mark.parametrize("error", [ServerRejectedError(400, "too long"), ServerError("gone")])
def test_other_errors_end_the_run(error: Exception, run: Run) -> None:
    run.client.error = error
    with pytest.raises(type(error)):
        run.evaluate(2, 0)


def test_leaving_cancels_the_pending_evaluation(run: Run) -> None:
    with run.evaluations:
        run.start(2)
        pending = run.evaluations._pending
        assert pending is not None
    assert wait([pending.num_correct], timeout=5).not_done == set()
    assert pending.num_correct.cancelled()


@pytest.mark.parametrize(
    ("every", "due"), [(None, []), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (5, [5])]
)
def test_steps_are_evaluated_as_often_as_asked(
    every: int | None, due: list[int], tmp_path: Path, portal: BlockingPortal
) -> None:
    config = TrainConfig(run=RunConfig(folder=tmp_path, evaluate_every=every))
    evaluations = HeldOutEvaluations(
        versions_for(portal.call(FakeClient), portal), config, None, print
    )
    assert [step for step in range(1, 7) if evaluations.is_due(step)] == due


def test_a_held_out_question_too_long_for_the_context_is_left_out_and_named(
    tiny_base: Path, tmp_path: Path
) -> None:
    source, said = tmp_path / "own.jsonl", list[str]()
    rows = [{"question": text, "answer": "1"} for text in ("1?", "long " * 3000, "2?")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TrainConfig(
        policy=PolicyConfig(base_model=str(tiny_base)),
        data=DataConfig(evaluation_source=str(source)),
        rollout=RolloutConfig(max_tokens=9),
        run=RunConfig(folder=tmp_path, evaluate_every=1),
    )
    limits = STATUS.limits.model_copy(update={"max_model_len_tokens": 1024})
    status = STATUS.model_copy(update={"limits": limits})
    questions = fitting_held_out(load_questions(config).held_out, config, status, said.append)
    assert questions is not None
    assert [record.question for record in questions.asked] == ["1?", "2?"]
    assert len(questions.records) == 3
    (line,) = said
    assert line.startswith("data: 1 of 3 questions left out, such as own-000002")


@pytest.mark.parametrize(
    ("per_step", "counterfactual", "num_said"),
    [(3, 0.0, 0), (4, 0.0, 1), (4, 0.25, 0), (5, 0.25, 1)],
)
def test_fewer_questions_than_a_step_asks_are_said(
    per_step: int, counterfactual: float, num_said: int, tiny_base: Path, tmp_path: Path
) -> None:
    source, lines = tmp_path / "own.jsonl", list[str]()
    rows = [
        {
            "question": f"Ann has {i} cats and {i + 1} dogs. How many pets?",
            "answer": f"<<{i}+{i + 1}={2 * i + 1}>>",
        }
        for i in (12, 13, 14)
    ]
    for row in rows:
        row["answer"] += f"\n#### {row['answer'].strip('<>').partition('=')[2]}"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TrainConfig(
        policy=PolicyConfig(base_model=str(tiny_base)),
        data=DataConfig(source=str(source), counterfactual=counterfactual),
        rollout=RolloutConfig(max_tokens=9, questions_per_step=per_step),
        run=RunConfig(folder=tmp_path),
    )
    fitting_questions(load_questions(config), config, STATUS, lines)
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(warnings) == num_said
    said = f"{source} has 3 questions to ask, fewer than rollout.questions_per_step = {per_step}"
    assert all(line.startswith(f"warning: {said}") for line in warnings)
