"""Several processes do the step that one does: to rounding, and to the last bit of what one recomputes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.rounding import in_float64
from tests.unit.trainer.ranks import steps
from trainer.model.roles import PolicyRoles
from trainer.ppo.leader_and_followers import make_learner
from trainer.ppo.learner import Learner
from trainer.ppo.learner_state import learner_state
from trainer.ranks.process_group import Ranks

MakeRoles = Callable[..., PolicyRoles]
State = dict[str, Any]
SIZE = 2


@contextmanager
def ranks_of(base_model: Path, folder: Path, *cases: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that run `steps`, started as by a launcher; none outlives the block."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(SIZE),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, steps.__file__, str(base_model), str(folder), *cases],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(SIZE)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            with process:
                pass


@pytest.fixture(scope="module")
def of_ranks(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    """The state of the first of two ranks at the end of each case; in the last case the second rank ends early."""
    folder = tmp_path_factory.mktemp("ranks")
    # One start for all: most of the time goes into imports.
    cases = [steps.NOT_FINITE, *steps.SHARDED, *steps.CASES, steps.ONE_SHARD]
    cases += [steps.LOSES_MEMORY, steps.ENDS]
    with ranks_of(tiny_base, folder, *cases) as (first, second):
        output, _ = second.communicate(timeout=500)
        assert second.returncode == 9, output
        output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    return {case: torch.load(folder / f"{case}.pt", weights_only=True) for case in cases}


def of_one_process(
    base_model: Path, case: str, *, num_shards: int, token_budget: int | None = None
) -> tuple[Learner, list[State]]:
    torch.manual_seed(0)
    learner = make_learner(steps.start_of(str(base_model), case), Ranks())
    learner.update.num_shards = num_shards
    learner.token_budget = token_budget or learner.token_budget
    return learner, steps.do_steps(learner)


def recomputed(base_model: Path, case: str) -> tuple[State, list[State]]:
    """The state of one process after the steps of two ranks, and its metrics."""
    learner, metrics = of_one_process(base_model, case, num_shards=SIZE)
    return learner_state(learner.roles, learner.update), metrics


def difference(a: State, b: State, role: str) -> float:
    return max(float((a[role][name] - b[role][name]).abs().max()) for name in a[role])


@pytest.mark.parametrize(
    ("num_shards", "case"), [*((2, case) for case in steps.CASES), (3, "gae"), (7, "gae")]
)
def test_shards_add_up_to_the_whole_mini_batch(
    num_shards: int, case: str, make_roles: MakeRoles
) -> None:
    with in_float64():
        whole, divided = (make_roles(seed=1, dtype=torch.float64) for _ in range(2))
        config = steps.start_of("none", case).config
        alone, found = (Learner(config.ppo, config.run, roles) for roles in (whole, divided))
        found.update.num_shards = num_shards
        for ours, theirs in zip(steps.do_steps(found), steps.do_steps(alone), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9, nan_ok=True)
    for weight, other in zip(divided.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", steps.CASES)
def test_one_process_recomputes_to_the_bit_what_ranks_did(
    case: str, of_ranks: dict[str, State], tiny_base: Path
) -> None:
    found = of_ranks[case]
    again, metrics = recomputed(tiny_base, case)
    for role in ("policy", "critic", "value_head"):
        assert difference(found, again, role) == 0.0, role
    assert repr(found["metrics"]) == repr(metrics)


def test_all_ranks_move_in_a_step_of_one_shard(of_ranks: dict[str, State], tiny_base: Path) -> None:
    found = of_ranks[steps.ONE_SHARD]
    learner, _ = of_one_process(tiny_base, "gae", num_shards=1)
    again = learner_state(learner.roles, learner.update)
    assert difference(found, again, "policy") == 0.0
    # At the start; what moved on one rank alone would have to be given to the others.
    assert found["num_states"] == 1


@pytest.mark.parametrize("case", steps.SHARDED)
def test_ranks_with_parts_of_the_base_do_what_one_with_all_of_it_does(
    case: str, of_ranks: dict[str, State], tiny_base: Path
) -> None:
    found = of_ranks[case]
    again, metrics = recomputed(tiny_base, case)
    for role in ("policy", "critic", "value_head"):
        assert difference(found, again, role) <= 1e-6, role
    for ours, theirs in zip(found["metrics"], metrics, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5, nan_ok=True)


def test_ranks_that_share_passes_are_in_step_after_numbers_that_are_not_finite(
    of_ranks: dict[str, State],
) -> None:
    # The cases after it have done their steps.
    assert "NonFiniteError" in of_ranks[steps.NOT_FINITE]["error"]
    assert of_ranks[steps.NOT_FINITE]["num_updates"] == 0


def test_a_rank_without_memory_ends_a_job_whose_ranks_share_passes(
    tiny_base: Path, tmp_path: Path
) -> None:
    case = steps.SHARDED_LOSES_MEMORY
    with ranks_of(tiny_base, tmp_path, case) as (first, second):
        output, _ = second.communicate(timeout=300)
        assert "rank 1 of this job is out of GPU memory" in output
        first.communicate(timeout=300)
    found = torch.load(tmp_path / f"{case}.pt", weights_only=True)
    assert "RankLostError" in found["error"]
    assert found["num_updates"] == 0


def test_a_rank_without_memory_lets_all_do_the_step_in_halves(
    of_ranks: dict[str, State], tiny_base: Path
) -> None:
    found = of_ranks[steps.LOSES_MEMORY]
    budget = steps.start_of("none", "gae").config.ppo.token_budget // 2
    learner, _ = of_one_process(tiny_base, "gae", num_shards=SIZE, token_budget=budget)
    assert found["token_budget"] == budget
    again = learner_state(learner.roles, learner.update)
    assert difference(found, again, "policy") == 0.0


def test_a_rank_that_ends_leaves_the_first_as_it_was(of_ranks: dict[str, State]) -> None:
    found = of_ranks[steps.ENDS]
    assert "RankLostError" in found["error"]
    assert found["num_updates"] == 0
