"""The version that a run begins with is evaluated once, for the others to be compared with, and is never the best."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.memory_server import MemoryServer
from tests.unit.runs_in_memory import run_config, server_roles, train, write_questions
from trainer.client.protocol import GreedyPrompt, TextCompletion
from trainer.config.sections import TrainConfig
from trainer.model.roles import PolicyRoles
from trainer.online.periodic_eval import HeldOutEvaluations
from trainer.replay.verify import verify
from trainer.report.run_record import RunRecord, read_run
from trainer.run_state.best import read_best

START, WORSE = "#### 1", "#### 2"
"""The start's answer, which is right, and that of the versions after it."""


class WorseThanTheStart(MemoryServer):
    """Only the version of the start answers held-out questions right; the trainer dies at the answers of ``dies_at``."""

    dies_at: int | None = None

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        if version == self.dies_at:
            raise RuntimeError("killed")
        text = WORSE if version else START
        return [TextCompletion(text=text, num_tokens=2, truncated=False) for _ in questions]


@pytest.fixture(scope="module")
def scorer(tiny_base: Path) -> PolicyRoles:
    return server_roles(tiny_base)


@pytest.fixture
def config_of(tiny_base: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    questions = write_questions(tmp_path / "seven.jsonl")

    def config(**run: object) -> TrainConfig:
        given = {"num_steps": 4, "num_evaluation_questions": 7, "return_to_best": True, **run}
        data = {"evaluation_source": str(questions)}
        return run_config(tiny_base, tmp_path / "run", questions, data=data, run=given)

    return config


@pytest.fixture(autouse=True)
def answers_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an evaluation be finished when it is looked for."""
    collect = HeldOutEvaluations.collect

    def collected(evaluations: HeldOutEvaluations, *, wait: bool) -> dict[str, float]:
        return collect(evaluations, wait=True)

    monkeypatch.setattr(HeldOutEvaluations, "collect", collected)


def evaluated(run: RunRecord) -> list[tuple[float, float, float | None]]:
    """Step, accuracy and best step of each evaluation."""
    rows = [row for row in run.measured if "eval/step" in row]
    return [(row["eval/step"], row["eval/accuracy"], row.get("eval/best_step")) for row in rows]


def test_a_run_is_compared_with_its_start_but_does_not_go_back_to_it(
    config_of: Callable[..., TrainConfig], scorer: PolicyRoles
) -> None:
    config = config_of()
    train(config, WorseThanTheStart(scorer))
    folder = config.run.folder
    run = read_run(folder)
    assert evaluated(run) == [(0, 1.0, None), (2, 0.0, 2), (4, 0.0, 2)]
    assert [row["eval/version"] for row in run.measured if "eval/step" in row] == [0, 2, 4]
    best = read_best(folder)
    assert best is not None
    assert (best.step, best.accuracy) == (2, 0.0)
    assert verify(folder, from_step=0, stop_at_first=False, say=print)


def test_a_resumed_run_does_not_evaluate_its_start_again(
    config_of: Callable[..., TrainConfig], scorer: PolicyRoles
) -> None:
    server = WorseThanTheStart(scorer)
    train(config_of(num_steps=1), server)
    train(config_of(num_steps=3), server)
    assert [step for step, *_ in evaluated(read_run(config_of().run.folder))] == [0, 2]


def test_the_start_is_evaluated_by_the_next_start_of_a_run_that_was_killed_before(
    config_of: Callable[..., TrainConfig], scorer: PolicyRoles
) -> None:
    server = WorseThanTheStart(scorer)
    server.dies_at = 0
    with pytest.raises(RuntimeError, match="killed"):
        train(config_of(), server)
    again = WorseThanTheStart(scorer)
    again.state = server.copy_of_state()
    train(config_of(), again)
    assert [step for step, *_ in evaluated(read_run(config_of().run.folder))] == [0, 2, 4]


def test_a_run_without_evaluations_asks_nothing_of_its_start(
    config_of: Callable[..., TrainConfig], scorer: PolicyRoles
) -> None:
    config = config_of(evaluate_every=None, return_to_best=False, num_steps=1)
    server = WorseThanTheStart(scorer)
    server.dies_at = 0
    train(config, server)
    assert evaluated(read_run(config.run.folder)) == []
