"""A run that is killed at any moment goes on as if it had never stopped.

What a kill leaves is what is on the disk at that moment. So an undisturbed run is photographed before
every call that changes the disk or the server, and each photograph is started again.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from regime_w import ArmSpec
from tests.unit.memory_server import MemoryServer, ServerState
from trainer import loop
from trainer.config import PolicyConfig, TrainConfig
from trainer.policy import PolicyRoles
from trainer.tracking import read_metrics

MakeRoles = Callable[..., PolicyRoles]
ARMS = [
    ArmSpec(name=f"arm_{i}", system_prompt="Be brief.", temperature=0.5 + i / 4, top_p=1.0)
    for i in range(3)
]
NUM_STEPS = 3


def config_of(base: Path, folder: Path, data: Path, **sections: dict[str, Any]) -> TrainConfig:
    given: dict[str, dict[str, Any]] = {
        "policy": {"base_model": str(base), "lora_rank": 2},
        "data": {"source": str(data), "curriculum": 1},
        "rollout": {
            "questions_per_step": 2,
            "max_tokens": 8,
            "arms": ARMS,
            "seed": 3,
            "max_staleness": 1,
            "refill_zero_variance": True,
        },
        "ppo": {
            "learning_rate": 1e-3,
            "learning_rate_schedule": "linear",
            "critic_warmup_steps": 1,
            "questions_per_mini_batch": 1,
            "kl_horizon": 10,
        },
        "run": {
            "folder": folder,
            "num_steps": NUM_STEPS,
            "checkpoint_every": 2,
            "num_checkpoints": 1,
            "num_adapters": 3,
            "num_threads": 1,
            "evaluate_every": 2,
            "num_evaluation_questions": 2,
        },
    }
    for name, section in sections.items():
        given[name] |= section
    return TrainConfig.model_validate(given)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "seven.jsonl"
    rows = [{"question": f"What is {i}?", "answer": "#### 1"} for i in range(7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def server_roles(tiny_base: Path) -> PolicyRoles:
    """Roles of the shape that runs here have, for the server to score with."""
    config = PolicyConfig(base_model=str(tiny_base), lora_rank=2)
    return PolicyRoles(config, device=torch.device("cpu"), serve_dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """Disk and server at one moment."""

    before: str
    """What the run was about to do."""
    folder: Path
    server: ServerState


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "tensorboard" not in path.parts
    }


class Photographer:
    """Copies a run's folder whenever something has changed since the last copy."""

    def __init__(self, run: Path, album: Path, server: MemoryServer) -> None:
        self.run, self.album, self.server = run, album, server
        self.taken: list[Photograph] = []
        self._seen: Any = None

    def take(self, before: str) -> None:
        now = (contents(self.run), self.server.state.active, set(self.server.state.digests))
        if now == self._seen:
            return
        self._seen = now
        folder = self.album / f"{len(self.taken):03d}"
        shutil.copytree(self.run, folder, ignore=shutil.ignore_patterns("tensorboard"))
        self.taken.append(
            Photograph(before=before, folder=folder, server=self.server.copy_of_state())
        )

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Take a photograph before every call that changes something."""

        def watched(name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self.take(f"{name} {args[0] if args else ''}")
            return real(*args, **kwargs)

        for module, names in ((os, ("fsync", "replace", "rename")), (shutil, ("rmtree",))):
            for name in names:
                patch.setattr(module, name, partial(watched, name, getattr(module, name)))
        patch.setattr(
            self.server, "push_adapter", partial(watched, "push", self.server.push_adapter)
        )
        from trainer.tracking import Tracker

        record = Tracker.record
        patch.setattr(
            Tracker,
            "record",
            lambda tracker, step, metrics: watched(
                "record", partial(record, tracker), step, metrics
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What must not depend on whether a run was killed."""

    rows: list[dict[str, float]]
    rollouts: dict[str, bytes | None]
    adapters: dict[str, bytes | None]
    active: int | None
    state: dict[str, Any]
    """Of the last checkpoint."""


def outcome_of(folder: Path, server: MemoryServer) -> Outcome:
    kinds = ("time/", "sync/", "eval/", "rollout/tokens_per_s")
    rows = read_metrics(folder)
    return Outcome(
        rows=[{n: v for n, v in row.items() if not n.startswith(kinds)} for row in rows],
        rollouts=contents(folder / "rollouts"),
        adapters=contents(folder / "adapters"),
        active=server.state.active,
        state=flat(torch.load(folder / f"checkpoints/step-{NUM_STEPS:06d}/state.pt")),
    )


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """A checkpoint's numbers by name; tensors by their bytes."""
    if isinstance(state, torch.Tensor):
        return {name: (state.dtype, state.shape, state.numpy().tobytes())}
    if isinstance(state, dict | list | tuple):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, part in pairs for k, v in flat(part, f"{name}/{key}").items()}
    return {name: state}


def run(config: TrainConfig, server: MemoryServer) -> loop.TrainResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "ArmsClient", lambda config: server)
        return loop.train(config)


def test_a_run_killed_at_any_moment_goes_on_as_if_it_had_not_been(
    tiny_base: Path, data: Path, server_roles: PolicyRoles, tmp_path: Path
) -> None:
    server = MemoryServer(server_roles)
    folder = tmp_path / "run"
    folder.mkdir()
    photographer = Photographer(folder, tmp_path, server)
    with pytest.MonkeyPatch.context() as patch:
        photographer.watch(patch)
        run(config_of(tiny_base, folder, data), server)
    undisturbed = outcome_of(folder, server)
    assert [row["step"] for row in undisturbed.rows] == list(range(1, NUM_STEPS + 1))
    for photograph in photographer.taken:
        again = MemoryServer(server_roles)
        again.state = photograph.server
        run(config_of(tiny_base, photograph.folder, data), again)
        outcome = outcome_of(photograph.folder, again)
        different = {n for n, v in vars(undisturbed).items() if vars(outcome)[n] != v}
        assert different == set(), (photograph.before, photograph.folder)
