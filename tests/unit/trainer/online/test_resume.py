"""A run that is killed at any moment resumes as if it had never stopped.

What a kill leaves is what is on the disk at that moment. So an undisturbed run is photographed before
every call that changes the disk or the server, and each photograph is started again.
"""

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from inference_server.wire.schemas import ServerStatus
from tests.unit.memory_server import MemoryServer, ServerState
from tests.unit.runs_in_memory import run_config, server_roles, train, write_questions
from trainer.errors import CheckpointError, DataError, JournalError, UsageError
from trainer.io.metrics_file import read_metrics
from trainer.model.roles import PolicyRoles
from trainer.replay.verify import verify
from trainer.run_state.journal_reader import JournalReader
from trainer.run_state.recorded_questions import QUESTIONS_FILE

NUM_STEPS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("data") / "seven.jsonl")


@pytest.fixture(scope="module")
def scorer(tiny_base: Path) -> PolicyRoles:
    return server_roles(tiny_base)


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """The state of disk and server at one moment."""

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
        self.newest: dict[str, Photograph] = {}
        """For each call, the last photograph before it."""
        self._seen: Any = None

    def take(self, before: str) -> None:
        now = (contents(self.run), self.server.state.active, set(self.server.state.digests))
        if now != self._seen:
            self._seen = now
            folder = self.album / f"{len(self.taken):03d}"
            shutil.copytree(self.run, folder, ignore=shutil.ignore_patterns("tensorboard"))
            self.taken.append(
                Photograph(before=before, folder=folder, server=self.server.copy_of_state())
            )
        self.newest[before] = self.taken[-1]

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Take a photograph before every call that changes something."""

        def watched(name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self.take(f"{name} {args[0]}")
            return real(*args, **kwargs)

        for module, names in ((os, ("fsync", "replace", "rename")), (shutil, ("rmtree",))):
            for name in names:
                patch.setattr(module, name, partial(watched, name, getattr(module, name)))
        patch.setattr(
            self.server, "push_adapter", partial(watched, "push", self.server.push_adapter)
        )
        from trainer.console.run_output import RunOutput

        record = RunOutput.record
        patch.setattr(
            RunOutput,
            "record",
            lambda output, step, metrics: watched("record", partial(record, output), step, metrics),
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What must not depend on whether a run was killed."""

    rows: list[dict[str, float]]
    rollouts: dict[str, bytes | None]
    adapters: dict[str, bytes | None]
    active: int | None
    state: dict[str, Any]
    """The state in the last checkpoint."""


def differing(one: Outcome, other: Outcome) -> set[str]:
    return {name for name, value in vars(one).items() if vars(other)[name] != value}


def outcome_of(folder: Path, server: MemoryServer) -> Outcome:
    kinds = ("time", "sync/", "eval/", "rollout/tokens_per_s")
    rows = read_metrics(folder)
    return Outcome(
        rows=[{n: v for n, v in row.items() if not n.startswith(kinds)} for row in rows],
        rollouts=contents(folder / "rollouts"),
        adapters=contents(folder / "adapters"),
        active=server.state.active,
        state=flat(torch.load(folder / f"checkpoints/step-{NUM_STEPS:06d}/state.pt")),
    )


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """A checkpoint's values by name, with tensors as their bytes."""
    if isinstance(state, torch.Tensor):
        return {name: (state.dtype, state.shape, state.numpy().tobytes())}
    if isinstance(state, dict | list | tuple):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, part in pairs for k, v in flat(part, f"{name}/{key}").items()}
    return {name: state}


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_as_if_it_had_not_been(
    tiny_base: Path, data: Path, scorer: PolicyRoles, tmp_path: Path
) -> None:
    server = MemoryServer(scorer)
    folder = tmp_path / "run"
    folder.mkdir()
    photographer = Photographer(folder, tmp_path, server)
    with pytest.MonkeyPatch.context() as patch:
        photographer.watch(patch)
        train(run_config(tiny_base, folder, data), server)
    undisturbed = outcome_of(folder, server)
    assert [row["step"] for row in undisturbed.rows] == list(range(1, NUM_STEPS + 1))
    assert len(photographer.taken) > 30
    for photograph in photographer.taken:
        again = MemoryServer(scorer)
        again.state = photograph.server
        train(run_config(tiny_base, photograph.folder, data), again)
        outcome = outcome_of(photograph.folder, again)
        assert differing(outcome, undisturbed) == set(), photograph


# --- what else can be lost -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run that nothing happened to, and two moments of it."""

    outcome: Outcome
    at_line_2: Photograph
    """Step 2 is published and has no line in metrics.jsonl; a batch is in flight, asked of version 1."""
    at_line_3: Photograph
    """The same moment of step 3, after the checkpoint of step 2."""


@pytest.fixture(scope="module")
def undisturbed(
    tiny_base: Path, data: Path, scorer: PolicyRoles, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    album, server = tmp_path_factory.mktemp("undisturbed"), MemoryServer(scorer)
    folder = album / "run"
    folder.mkdir()
    photographer = Photographer(folder, album, server)
    with pytest.MonkeyPatch.context() as patch:
        photographer.watch(patch)
        train(run_config(tiny_base, folder, data), server)
    return Undisturbed(
        outcome=outcome_of(folder, server),
        at_line_2=photographer.newest["record 2"],
        at_line_3=photographer.newest["record 3"],
    )


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_the_newest_checkpoint(folder: Path, server: MemoryServer) -> None:
    flip_a_bit(folder / "checkpoints/step-000002/state.pt")


def tear_the_metrics(folder: Path, server: MemoryServer) -> None:
    damage_the_newest_checkpoint(folder, server)
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])


def lose_the_metrics(folder: Path, server: MemoryServer) -> None:
    damage_the_newest_checkpoint(folder, server)
    (folder / "metrics.jsonl").unlink()


def leave_half_written_files(folder: Path, server: MemoryServer) -> None:
    for name in ("checkpoints/step-000009", "adapters/next", "adapters/policy-000009", "start"):
        (folder / f"{name}.unfinished").mkdir()
        (folder / f"{name}.unfinished/junk").touch()
    (folder / "rollouts/step-000009.jsonl.unfinished").touch()


def restart_the_server(folder: Path, server: MemoryServer) -> None:
    server.state = ServerState()


def lose_the_newest_adapter(folder: Path, server: MemoryServer) -> None:
    restart_the_server(folder, server)
    shutil.rmtree(sorted((folder / "adapters").iterdir())[-1])


@pytest.mark.parametrize(
    "happens", [damage_the_newest_checkpoint, tear_the_metrics, lose_the_metrics]
)
def test_a_damaged_checkpoint_costs_time_and_nothing_else(
    happens: Callable[[Path, MemoryServer], None],
    undisturbed: Undisturbed,
    tiny_base: Path,
    data: Path,
    scorer: PolicyRoles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, server = come_back(undisturbed.at_line_3, tmp_path, scorer)
    happens(folder, server)
    train(run_config(tiny_base, folder, data), server)
    assert differing(outcome_of(folder, server), undisturbed.outcome) == set()
    said = capsys.readouterr().out
    assert "step-000002: state.pt is damaged; going back to the one before" in said
    assert said.count("recomputed from the journal") == 3


@pytest.mark.parametrize(
    "happens", [leave_half_written_files, restart_the_server, lose_the_newest_adapter]
)
def test_what_can_be_made_again_is(
    happens: Callable[[Path, MemoryServer], None],
    undisturbed: Undisturbed,
    tiny_base: Path,
    data: Path,
    scorer: PolicyRoles,
    tmp_path: Path,
) -> None:
    folder, server = come_back(undisturbed.at_line_2, tmp_path, scorer)
    happens(folder, server)
    train(run_config(tiny_base, folder, data), server)
    assert differing(outcome_of(folder, server), undisturbed.outcome) == set()
    assert not [path for path in folder.rglob("*") if path.name.endswith(".unfinished")]


def test_a_lost_version_leaves_its_questions_to_the_newest(
    undisturbed: Undisturbed,
    tiny_base: Path,
    data: Path,
    scorer: PolicyRoles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, server = come_back(undisturbed.at_line_2, tmp_path, scorer)
    shutil.rmtree(folder / "adapters/policy-000001")
    train(run_config(tiny_base, folder, data), server)
    assert "version 1 cannot be served again" in capsys.readouterr().out
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["rollout/lag"] for row in rows] == [0, 1, 0]
    # The same questions, as if nothing had been lost.
    asked = [json.loads(line)["id"] for line in lines_of(folder, 3)]
    assert asked == [json.loads(line)["id"] for line in lines_of(undisturbed.at_line_3.folder, 3)]


def test_a_server_that_has_given_the_numbers_to_others_gets_new_ones(
    undisturbed: Undisturbed, tiny_base: Path, data: Path, scorer: PolicyRoles, tmp_path: Path
) -> None:
    folder, server = come_back(undisturbed.at_line_2, tmp_path, scorer)
    server.state = ServerState(digests=dict.fromkeys(range(9), "another"))
    train(run_config(tiny_base, folder, data), server)
    rows = read_metrics(folder)
    assert [row["version"] for row in rows] == [1, 9, 10]
    assert server.state.active == 10


def test_no_whole_checkpoint_is_an_error_in_one_line(
    undisturbed: Undisturbed, tiny_base: Path, data: Path, scorer: PolicyRoles, tmp_path: Path
) -> None:
    folder, server = come_back(undisturbed.at_line_3, tmp_path, scorer)
    for state in folder.glob("checkpoints/*/state.pt"):
        flip_a_bit(state)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be resumed from") as caught:
        train(run_config(tiny_base, folder, data), server)
    assert "\n" not in str(caught.value)


def damage_rollouts_of_step_3(folder: Path) -> None:
    flip_a_bit(folder / "rollouts/step-000003.jsonl")


def damage_all_after_the_start(folder: Path) -> None:
    flip_a_bit(folder / "checkpoints/step-000002/state.pt")
    flip_a_bit(folder / "rollouts/step-000001.jsonl")
    damage_rollouts_of_step_3(folder)


def damage_the_line_of_step_2(folder: Path) -> None:
    flip_a_bit(folder / "checkpoints/step-000002/state.pt")
    damage_lines(folder, '"kind":"step","step":2')


def damage_the_line_of_version_1(folder: Path) -> None:
    flip_a_bit(folder / "checkpoints/step-000002/state.pt")
    damage_lines(folder, '"kind":"adapter","step":1')


def damage_lines(folder: Path, start: str) -> None:
    path = folder / "journal.jsonl"
    text = path.read_text()
    assert text.count(f"{{{start},") == 1
    path.write_text(text.replace(f"{{{start},", f"{start},"))


@pytest.mark.parametrize(
    ("damage", "said", "given_up", "left"),
    [
        (damage_rollouts_of_step_3, r"step 3: .*step-000003\.jsonl was changed", "step 3", []),
        (damage_all_after_the_start, r"step 1: .*step-000001\.jsonl was ch", "steps 1 to 3", []),
        (
            damage_the_line_of_step_2,
            "step 2: .*no line for this step; line 4 is dama",
            "steps 2 to 3",
            [],
        ),
        # Not needed before step 3, so that the steps before it are kept, and with them the damage.
        (damage_the_line_of_version_1, "step 3: version 1.* is not known", "step 3", [3]),
    ],
)
def test_a_damaged_step_that_has_to_be_done_again_is_an_error_with_a_way_out(
    damage: Callable[[Path], None],
    said: str,
    given_up: str,
    left: list[int],
    undisturbed: Undisturbed,
    tiny_base: Path,
    data: Path,
    scorer: PolicyRoles,
    tmp_path: Path,
) -> None:
    folder, server = come_back(undisturbed.at_line_3, tmp_path, scorer)
    damage(folder)
    with pytest.raises(JournalError, match=said) as caught:
        train(run_config(tiny_base, folder, data), server)
    assert f"put a copy back, or give up {given_up} by `" in str(caught.value)
    command = str(caught.value).split("`")[1]
    subprocess.run(shlex.split(command), check=True)
    assert train(run_config(tiny_base, folder, data), server).step == 3
    assert [row["step"] for row in read_metrics(folder)] == [1, 2, 3]
    assert list(JournalReader(folder).damaged_lines) == left
    assert verify(folder, from_step=0, stop_at_first=False, say=print) is (not left)


def test_a_damaged_line_before_the_newest_checkpoint_is_said(
    undisturbed: Undisturbed,
    tiny_base: Path,
    data: Path,
    scorer: PolicyRoles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, server = come_back(undisturbed.at_line_3, tmp_path, scorer)
    damage_lines(folder, '"kind":"step","step":1')
    assert train(run_config(tiny_base, folder, data), server).step == 3
    assert "journal.jsonl is damaged in line 2; replay stops there" in capsys.readouterr().out


# --- restart is resume -----------------------------------------------------------------------------


def test_a_finished_run_stays_as_it_is_until_it_gets_more_steps(
    undisturbed: Undisturbed, tiny_base: Path, data: Path, scorer: PolicyRoles, tmp_path: Path
) -> None:
    folder, server = come_back(undisturbed.at_line_3, tmp_path, scorer)
    done = train(run_config(tiny_base, folder, data), server)
    before = contents(folder)
    num_asked = len(server.asked)
    assert train(run_config(tiny_base, folder, data), server, must_resume=True) == done
    assert (contents(folder), len(server.asked)) == (before, num_asked)
    longer = train(run_config(tiny_base, folder, data, run={"num_steps": 4}), server)
    assert (longer.step, longer.stopped) == (4, False)
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ppo": {"learning_rate": 2e-3}}, ["ppo.learning_rate was 0.001 and is 0.002"]),
        ({"data": {"curriculum": None}}, ["data.curriculum was 1 and is null"]),
        (
            {"rollout": {"seed": 4}, "run": {"seed": 1}},
            ["rollout.seed was 3 and is 4", "run.seed was 0 and is 1"],
        ),
    ],
)
def test_another_configuration_is_refused_with_what_differs(
    changes: dict[str, dict[str, Any]],
    said: list[str],
    undisturbed: Undisturbed,
    tiny_base: Path,
    data: Path,
    scorer: PolicyRoles,
    tmp_path: Path,
) -> None:
    folder, server = come_back(undisturbed.at_line_3, tmp_path, scorer)
    before = contents(folder)
    with pytest.raises(UsageError) as caught:
        train(run_config(tiny_base, folder, data, **changes), server)
    assert all(fragment in str(caught.value) for fragment in [*said, str(folder)])
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_where_and_how_long_a_run_runs_may_change(
    undisturbed: Undisturbed, tiny_base: Path, data: Path, scorer: PolicyRoles, tmp_path: Path
) -> None:
    folder, server = come_back(undisturbed.at_line_3, tmp_path, scorer)
    run = {"num_steps": 4, "checkpoint_every": 1, "num_checkpoints": 2, "num_adapters": 5}
    config = run_config(
        tiny_base, folder, data, run=run, server={"url": "http://elsewhere:1", "api_key": "secret"}
    )
    assert train(config, server).step == 4
    stored = (folder / "config.toml").read_text()
    assert "elsewhere" in stored
    assert "secret" not in stored


class OfAnotherContext(MemoryServer):
    """A server with another context; the trainer dies at the push of the version ``killed_at``."""

    def __init__(self, roles: PolicyRoles, *, context: int = 256, killed_at: int | None = None):
        super().__init__(roles)
        self.context, self.killed_at = context, killed_at

    async def status(self) -> ServerStatus:
        status = await super().status()
        limits = status.limits.model_copy(update={"max_model_len_tokens": self.context})
        return status.model_copy(update={"limits": limits})

    async def push_adapter(self, version: int, folder: Path, *, activate: bool = True) -> object:  # type: ignore[override]
        if version == self.killed_at:
            raise RuntimeError("killed")
        return await super().push_adapter(version, folder, activate=activate)


def test_a_start_that_fails_says_why_and_leaves_the_record_of_the_questions(
    tiny_base: Path, scorer: PolicyRoles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = tmp_path / "own.jsonl", tmp_path / "run"
    rows = [
        json.dumps({"question": f"What is {i}{' and so on' * 30 * (i > 0)}?", "answer": "1"}) + "\n"
        for i in range(7)
    ]
    source.write_text("".join(rows))
    held_out = {"evaluation_source": str(write_questions(tmp_path / "short.jsonl"))}
    config = run_config(tiny_base, folder, source, data=held_out)
    with pytest.raises(RuntimeError, match="killed"):
        train(config, OfAnotherContext(scorer, killed_at=2))
    record = (folder / QUESTIONS_FILE).read_bytes()

    with pytest.raises(DataError, match="start the server with the --max-model-len"):
        train(config, OfAnotherContext(scorer, context=80))
    source.write_text(rows[0])
    with pytest.raises(DataError, match=r"resume with the data\.source"):
        train(config, OfAnotherContext(scorer))
    assert capsys.readouterr().out.count("was changed since") == 1
    assert (folder / QUESTIONS_FILE).read_bytes() == record

    source.write_text("".join(rows))
    assert train(config, OfAnotherContext(scorer)).step == NUM_STEPS
    assert "was changed since" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ({"rollout": {"max_tokens": 5000}}, r"rollout\.max_tokens"),
        ({"data": {"evaluation_source": "nowhere.jsonl"}}, "nowhere.jsonl"),
        ({"data": {"evaluation_source": "LONG"}}, "no question can be asked"),
    ],
)
def test_a_folder_in_which_nothing_was_begun_takes_any_configuration(
    mistake: dict[str, dict[str, Any]],
    said: str,
    tiny_base: Path,
    data: Path,
    scorer: PolicyRoles,
    tmp_path: Path,
) -> None:
    """A first start that is refused must not tie the folder to its mistake."""
    long, folder = tmp_path / "long.jsonl", tmp_path / "run"
    long.write_text(json.dumps({"question": "long " * 3000, "answer": "1"}))
    if mistake.get("data", {}).get("evaluation_source") == "LONG":
        mistake = {"data": {"evaluation_source": str(long)}}
    with pytest.raises(UsageError, match=said):
        train(run_config(tiny_base, folder, data, **mistake), MemoryServer(scorer))
    right = run_config(tiny_base, folder, data, run={"num_steps": 1})
    with pytest.raises(UsageError, match="--resume: no checkpoint"):
        train(right, MemoryServer(scorer), must_resume=True)
    assert train(right, MemoryServer(scorer)).step == 1


def come_back(
    photograph: Photograph, tmp_path: Path, scorer: PolicyRoles
) -> tuple[Path, MemoryServer]:
    """The run as it was at a moment, and its server."""
    folder, server = tmp_path / "run", MemoryServer(scorer)
    shutil.copytree(photograph.folder, folder)
    server.state = dataclasses.replace(
        photograph.server,
        digests=dict(photograph.server.digests),
        weights=dict(photograph.server.weights),
    )
    return folder, server


def lines_of(folder: Path, step: int) -> list[str]:
    return (folder / f"rollouts/step-{step:06d}.jsonl").read_text().splitlines()
