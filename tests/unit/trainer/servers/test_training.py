"""A whole run against several servers in memory, one of which dies and comes back."""

import hashlib
import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import (
    ADAPTER_WEIGHTS_FILE,
    ArmsRequest,
    ArmsResponse,
    ServerStatus,
)
from tests.unit.memory_server import MemoryServer, ServerState
from tests.unit.runs_in_memory import run_config, server_roles, write_questions
from trainer.errors import ServerUnreachableError, SyncError
from trainer.io.metrics_file import read_metrics
from trainer.model.adapter import read_adapter
from trainer.model.roles import PolicyRoles
from trainer.online.published import Published
from trainer.online.setup import train
from trainer.online.weight_sync.proofs import Proofs
from trainer.rollouts.groups import RolloutBatch
from trainer.servers import membership
from trainer.servers.pool import ServerPool


class Mortal(MemoryServer):
    """Dies after some groups, and is back, empty, at its first or second status after that."""

    def __init__(self, roles: PolicyRoles, name: str, *, dies_after: tuple[int, ...] = ()) -> None:
        super().__init__(roles)
        self.name, self.boot = name, 1
        self.dies_after = list(dies_after)
        self.is_down = False
        self.num_made = 0

    async def status(self) -> ServerStatus:
        if self.is_down:
            self.is_down = False
            self.boot += 1
            self.state = ServerState()
            raise ServerUnreachableError("down")
        status = await super().status()
        return status.model_copy(update={"boot_id": f"{self.name}{self.boot}"})

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        if self.is_down:
            raise ServerUnreachableError("down")
        return await super().push_adapter(version, folder, activate=activate)

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        if self.dies_after and self.num_made == self.dies_after[0]:
            self.dies_after.pop(0)
            self.is_down = True
        if self.is_down:
            raise ServerUnreachableError("down")
        response = await super().generate(request)
        self.num_made += 1
        return response.model_copy(update={"boot_id": f"{self.name}{self.boot}"})


class ServesAnother(Mortal):
    """Answers with the weights of the version before, from version 2 on."""

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        info = await super().push_adapter(version, folder, activate=activate)
        if version >= 2:
            self.state.weights[version] = self.state.weights[version - 1]
        return info


@pytest.fixture(scope="module")
def scorer(tiny_base: Path) -> PolicyRoles:
    return server_roles(tiny_base)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "FIRST_WAIT_S", 0.01)


def rollouts_of(run: Path) -> list[dict[str, object]]:
    files = sorted((run / "rollouts").glob("step-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_run_over_three_servers_asks_every_question_once_and_replays(
    tiny_base: Path,
    scorer: PolicyRoles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    proven: set[tuple[int, str]] = set()
    real = Proofs._prove

    def noted(self: Proofs, published: Published, *args: object, **options: object) -> None:
        real(self, published, *args, **options)  # type: ignore[arg-type]
        proven.update((v, origin.boot_id) for v, origin in self._proven if origin.boot_id)

    monkeypatch.setattr(Proofs, "_prove", noted)
    trained: list[tuple[str, int, str]] = []
    real_rollouts = Proofs.prove_rollouts

    def noted_rollouts(self: Proofs, batch: RolloutBatch, *args: object) -> None:
        real_rollouts(self, batch, *args)  # type: ignore[arg-type]
        for scored in batch.groups:
            boot_id = getattr(scored.group, "server_boot_id")  # noqa: B009
            trained.append((scored.record.id, batch.version, boot_id))
            # Before it trains, its server has proven the version.
            assert (batch.version, boot_id) in proven

    monkeypatch.setattr(Proofs, "prove_rollouts", noted_rollouts)
    questions = write_questions(tmp_path / "seven.jsonl")
    config = run_config(
        tiny_base,
        tmp_path / "run",
        questions,
        rollout={"questions_per_step": 6, "dynamic_sampling": False},
        run={"num_steps": 6},
    )
    servers = [
        Mortal(scorer, "a"),
        Mortal(scorer, "b", dies_after=(3, 7)),
        Mortal(scorer, "c", dies_after=(5,)),
    ]
    pool = ServerPool({f"http://{s.name}:1": s for s in servers}, give_up_after_s=60.0)
    with caplog.at_level(logging.WARNING):
        assert train(config, client=pool).step == 6

    rows = rollouts_of(tmp_path / "run")
    assert len(rows) == 36
    by_server = Counter(row["server"] for row in rows)
    assert by_server.keys() == {"http://a:1", "http://b:1", "http://c:1"}
    # The questions of one server: the same, in the same order, with the same answers.
    monkeypatch.undo()
    alone = config.model_copy(
        update={"run": config.run.model_copy(update={"folder": tmp_path / "alone"})}
    )
    train(alone, client=MemoryServer(scorer))
    without = [{k: v for k, v in row.items() if k != "server"} for row in rows]
    assert without == rollouts_of(tmp_path / "alone")
    assert any(boot_id.endswith("2") for _, _, boot_id in trained)
    assert sum("event=server_left" in line for line in caplog.messages) == 3
    metrics = read_metrics(tmp_path / "run")
    assert sum(metrics[-1].get(f"servers/groups/{s.name}:1", 0) for s in servers) == 6
    assert all(row["servers/up"] >= 1 for row in metrics)


def test_a_server_that_serves_the_version_before_stops_the_run_by_name(
    tiny_base: Path, scorer: PolicyRoles, tmp_path: Path
) -> None:
    config = run_config(
        tiny_base,
        tmp_path / "run",
        write_questions(tmp_path / "seven.jsonl"),
        rollout={"questions_per_step": 6, "dynamic_sampling": False},
        ppo={"learning_rate": 3e-2, "learning_rate_schedule": "constant"},
        run={"num_steps": 6},
    )
    servers = [Mortal(scorer, "a"), ServesAnother(scorer, "b")]
    pool = ServerPool({f"http://{s.name}:1": s for s in servers}, give_up_after_s=60.0)
    with pytest.raises(SyncError, match=r"^http://b:1: "):
        train(config, client=pool)


def test_a_server_that_dies_after_its_groups_is_not_waited_for(
    tiny_base: Path, scorer: PolicyRoles, tmp_path: Path
) -> None:
    class ListsNothing(Mortal):
        async def adapter(self, version: int) -> AdapterInfo:
            raise ServerUnreachableError("down")

        async def push_adapter(
            self, version: int, folder: Path, *, activate: bool = True
        ) -> AdapterInfo:
            self.state.weights[version] = read_adapter(folder)
            sha256 = hashlib.sha256((folder / ADAPTER_WEIGHTS_FILE).read_bytes()).hexdigest()
            self.state.digests[version], self.state.active = sha256, version
            return await MemoryServer.adapter(self, version)

    config = run_config(
        tiny_base,
        tmp_path / "run",
        write_questions(tmp_path / "seven.jsonl"),
        rollout={"questions_per_step": 4, "dynamic_sampling": False},
        run={"num_steps": 2, "evaluate_every": None},
    )
    servers = [Mortal(scorer, "a"), ListsNothing(scorer, "b")]
    pool = ServerPool({f"http://{s.name}:1": s for s in servers}, give_up_after_s=60.0)
    assert train(config, client=pool).step == 2
    assert servers[1].num_made > 0
