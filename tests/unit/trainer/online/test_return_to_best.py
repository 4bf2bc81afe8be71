"""A run whose held-out accuracy falls goes on from its best step, and is recomputed as it went."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.memory_server import MemoryServer
from tests.unit.runs_in_memory import run_config, server_roles, train, write_questions
from trainer.client.protocol import GreedyPrompt, TextCompletion
from trainer.config.sections import RunConfig, TrainConfig
from trainer.io.metrics_file import Metrics, read_metrics, read_with_late
from trainer.io.run_layout import checkpoint_folder
from trainer.model.roles import PolicyRoles
from trainer.online.periodic_eval import HeldOutEvaluations
from trainer.online.published import Published
from trainer.online.versions import Versions
from trainer.replay.verify import verify
from trainer.report.run_record import read_run
from trainer.run_state.journal_entries import JournaledAdapter
from trainer.run_state.journal_reader import JournalReader

BEST, FALLEN = 1, 3
"""Steps; up to the return, each version has the number of its step."""
RETURNED = FALLEN + 1
"""The version that is served from the return on."""


class WorseAtOneVersion(MemoryServer):
    """Answers held-out questions right, except with one version."""

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        text = "#### 2" if version == FALLEN else "#### 1"
        return [TextCompletion(text=text, num_tokens=2, truncated=False) for _ in questions]


class WorseAtTwoVersions(MemoryServer):
    """Answers held-out questions right, except with two versions; the trainer dies at the push of ``killed_at``."""

    killed_at: int | None = None

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        text = "#### 2" if version in (FALLEN, FALLEN + 1) else "#### 1"
        return [TextCompletion(text=text, num_tokens=2, truncated=False) for _ in questions]

    async def push_adapter(self, version: int, folder: Path, *, activate: bool = True) -> object:  # type: ignore[override]
        if version == self.killed_at:
            raise RuntimeError("killed")
        return await super().push_adapter(version, folder, activate=activate)


class DiesAtTheReturn(WorseAtOneVersion):
    """The trainer dies when the version of the return is pushed."""

    async def push_adapter(self, version: int, folder: Path, *, activate: bool = True) -> object:  # type: ignore[override]
        if version == RETURNED:
            raise RuntimeError("killed")
        return await super().push_adapter(version, folder, activate=activate)


START, COLLECT = HeldOutEvaluations.start, HeldOutEvaluations.collect


@pytest.fixture(autouse=True)
def evaluations_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step's evaluation be finished when the step ends; that of the start, of which no step is, is left out."""

    def started(evaluations: HeldOutEvaluations, step: int, published: Published) -> None:
        if step:
            START(evaluations, step, published)

    def at_once(evaluations: HeldOutEvaluations, *, wait: bool) -> Metrics:
        return COLLECT(evaluations, wait=True)

    monkeypatch.setattr(HeldOutEvaluations, "start", started)
    monkeypatch.setattr(HeldOutEvaluations, "collect", at_once)


def make_evaluations_take_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an evaluation be finished only when the next step ends, or when it is waited for."""
    publish = Versions.publish
    just_started = False

    def started(evaluations: HeldOutEvaluations, step: int, published: Published) -> None:
        nonlocal just_started
        just_started = True
        START(evaluations, step, published)

    def collected(evaluations: HeldOutEvaluations, *, wait: bool) -> Metrics:
        return {} if just_started and not wait else COLLECT(evaluations, wait=True)

    def published(versions: Versions, *args: Any, **kwargs: Any) -> None:
        nonlocal just_started
        just_started = False
        publish(versions, *args, **kwargs)

    monkeypatch.setattr(HeldOutEvaluations, "start", started)
    monkeypatch.setattr(HeldOutEvaluations, "collect", collected)
    monkeypatch.setattr(Versions, "publish", published)


@pytest.fixture(scope="module")
def scorer(tiny_base: Path) -> PolicyRoles:
    return server_roles(tiny_base)


def config_of(
    base: Path, tmp_path: Path, *, name: str = "run", returns: bool = True, num_steps: int = 5
) -> TrainConfig:
    questions = write_questions(tmp_path / "seven.jsonl")
    return run_config(
        base,
        tmp_path / name,
        questions,
        data={"evaluation_source": str(questions)},
        run={
            "num_steps": num_steps,
            "evaluate_every": 1,
            "num_evaluation_questions": 7,
            "return_to_best": returns,
        },
    )


def adapters_of(folder: Path) -> dict[int, JournaledAdapter]:
    return {adapter.version: adapter for adapter in JournalReader(folder).adapters}


def test_it_goes_on_from_the_best_step_and_replays(
    tiny_base: Path, scorer: PolicyRoles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tiny_base, tmp_path)
    assert train(config, WorseAtOneVersion(scorer)).step == 5
    folder = config.run.folder
    adapters = adapters_of(folder)
    assert {v: a.returned_to for v, a in adapters.items() if a.returned_to} == {RETURNED: BEST}
    assert adapters[RETURNED].step == FALLEN
    assert adapters[RETURNED].sha256 == adapters[BEST].sha256 != adapters[FALLEN].sha256
    assert f"accuracy has fallen; going on from step {BEST} (100.0%)" in capsys.readouterr().out
    # It is needed to recompute the run, whatever becomes the best.
    assert checkpoint_folder(folder, BEST).exists()
    said: list[str] = []
    for from_step in (0, FALLEN, FALLEN + 1):
        assert verify(folder, from_step=from_step, stop_at_first=False, say=said.append), said

    without = config_of(tiny_base, tmp_path, name="without", returns=False)
    train(without, WorseAtOneVersion(scorer))
    others = adapters_of(without.run.folder)
    assert not any(a.returned_to for a in others.values())
    # The same run up to there, and another one from there on.
    digests = [[a.sha256 for a in run.values() if not a.returned_to] for run in (adapters, others)]
    assert [a == b for a, b in zip(*digests, strict=True)] == [True] * (FALLEN + 1) + [False] * 2


def test_a_run_that_is_killed_at_the_return_resumes_from_there(
    tiny_base: Path, scorer: PolicyRoles, tmp_path: Path
) -> None:
    undisturbed, killed = (config_of(tiny_base, tmp_path, name=name) for name in ("a", "b"))
    train(undisturbed, WorseAtOneVersion(scorer))
    server = DiesAtTheReturn(scorer)
    with pytest.raises(RuntimeError, match="killed"):
        train(killed, server)
    again = WorseAtOneVersion(scorer)
    again.state = server.copy_of_state()
    assert train(killed, again).step == 5
    assert adapters_of(killed.run.folder) == adapters_of(undisturbed.run.folder)
    steps = [[row["step"] for row in read_metrics(c.run.folder)] for c in (undisturbed, killed)]
    assert steps == [[1, 2, 3, 4, 5]] * 2


def test_an_evaluation_that_takes_a_step_makes_room_for_the_next(
    tiny_base: Path,
    scorer: PolicyRoles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_evaluations_take_a_step(monkeypatch)
    config = config_of(tiny_base, tmp_path, returns=False)
    train(config, WorseAtOneVersion(scorer))
    said = capsys.readouterr().out
    assert "is not finished" not in said
    folder = config.run.folder
    steps = [row.get("eval/step") for row in read_metrics(folder)]
    assert steps == [0, 1, 2, 3, 4]
    # The line of the last step has the evaluation before, so that the last one gets a line of its own.
    late = [(row["step"], row["eval/step"]) for row in read_with_late(folder)[1]]
    assert late == [(5, 5)]
    assert "held-out accuracy 100.0% [64.6, 100.0] of 7 questions at step 5 (best" in said
    assert verify(folder, from_step=0, stop_at_first=False, say=print)
    # Another start leaves it where it is, and goes on behind it.
    longer = config_of(tiny_base, tmp_path, returns=False, num_steps=6)
    train(longer, WorseAtOneVersion(scorer))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row.get("eval/step")) for row in rows] == [
        *((1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (5, 5), (6, 6))
    ]
    assert verify(folder, from_step=0, stop_at_first=False, say=print)


class StoppedAtTheLastEvaluation(MemoryServer):
    """The trainer dies while the last version is evaluated."""

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        if version == 3:
            raise RuntimeError("killed")
        return await super().complete(version, questions, prompt)


def test_the_last_evaluation_of_a_run_that_is_killed_in_it_is_recorded_by_the_next_start(
    tiny_base: Path, scorer: PolicyRoles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tiny_base, tmp_path, num_steps=3)
    server = StoppedAtTheLastEvaluation(scorer)
    with pytest.raises(RuntimeError, match="killed"):
        train(config, server)
    again = MemoryServer(scorer)
    again.state = server.copy_of_state()
    capsys.readouterr()
    assert train(config, again).step == 3
    line = "held-out accuracy 100.0% [64.6, 100.0] of 7 questions at step 3 (best"
    assert line in capsys.readouterr().out
    found = read_run(config.run.folder)
    assert [row["step"] for row in found.rows] == [1, 2, 3]
    assert found.series("eval/step") == [1, 2, 3]


def test_an_evaluation_from_before_the_return_causes_no_other_return(
    tiny_base: Path, scorer: PolicyRoles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_evaluations_take_a_step(monkeypatch)
    configs = [config_of(tiny_base, tmp_path, name=name, num_steps=6) for name in ("a", "b")]
    undisturbed, killed = configs
    train(undisturbed, WorseAtTwoVersions(scorer))
    adapters = adapters_of(undisturbed.run.folder)
    # FALLEN is known one step later, when the version of that step is being evaluated already.
    returned = FALLEN + 2
    assert {v: a.returned_to for v, a in adapters.items() if a.returned_to} == {returned: BEST}
    said: list[str] = []
    for from_step in (0, returned):
        folder = undisturbed.run.folder
        assert verify(folder, from_step=from_step, stop_at_first=False, say=said.append), said

    server = WorseAtTwoVersions(scorer)
    server.killed_at = returned + 1
    with pytest.raises(RuntimeError, match="killed"):
        train(killed, server)
    again = WorseAtTwoVersions(scorer)
    again.state = server.copy_of_state()
    assert train(killed, again).step == 6
    assert adapters_of(killed.run.folder) == adapters


def test_a_checkpoint_that_is_damaged_is_not_gone_back_to(
    tiny_base: Path,
    scorer: PolicyRoles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(tiny_base, tmp_path)
    ask = WorseAtOneVersion.complete

    async def damage(
        server: WorseAtOneVersion, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        if version == FALLEN:
            (checkpoint_folder(config.run.folder, BEST) / "state.pt").write_bytes(b"")
        return await ask(server, version, questions, prompt)

    monkeypatch.setattr(WorseAtOneVersion, "complete", damage)
    assert train(config, WorseAtOneVersion(scorer)).step == 5
    assert f"cannot go back to step {BEST}" in capsys.readouterr().out
    assert not any(a.returned_to for a in adapters_of(config.run.folder).values())


def test_it_needs_evaluations() -> None:
    with pytest.raises(ValueError, match=r"set run\.evaluate_every"):
        RunConfig(return_to_best=True)
