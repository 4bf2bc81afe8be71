"""A run whose GPU has too little memory for a step goes on, and is replayed and resumed as it went."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit import runs_in_memory
from tests.unit.memory_server import MemoryServer
from trainer.errors import OutOfMemoryError
from trainer.io.run_layout import checkpoint_folders, step_of
from trainer.online.loop import TrainResult
from trainer.ppo.learner import Learner
from trainer.replay.verify import verify
from trainer.run_state.journal_reader import JournalReader

NUM_STEPS, FAILS_AT = 3, 2
BUDGET = 64
Train = Callable[..., TrainResult]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def train(tiny_base: Path, run: Path) -> Train:
    """Runs with some token budget against a server that is the same for every call."""
    server = MemoryServer(runs_in_memory.server_roles(tiny_base))

    def started(token_budget: int = BUDGET, num_steps: int = NUM_STEPS) -> TrainResult:
        config = runs_in_memory.small_config(
            tiny_base, run, num_steps=num_steps, token_budget=token_budget
        )
        return runs_in_memory.train(config, server)

    return started


def fails(patch: pytest.MonkeyPatch, *, times: int) -> None:
    """Let step `FAILS_AT` run out of memory ``times`` times."""
    real, failed = Learner.learn, list[int]()

    def learn(self: Learner, step: int, *arguments: Any, **options: Any) -> Any:
        if step == FAILS_AT and len(failed) < times:
            failed.append(step)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, step, *arguments, **options)

    patch.setattr(Learner, "learn", learn)


def holds(patch: pytest.MonkeyPatch, token_budget: int) -> list[int]:
    """Let the GPU hold no more tokens than this; returns the steps that ran out of memory, as they do."""
    real, failed = Learner.learn, list[int]()

    def learn(self: Learner, step: int, *arguments: Any, **options: Any) -> Any:
        if self.token_budget > token_budget:
            failed.append(step)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, step, *arguments, **options)

    patch.setattr(Learner, "learn", learn)
    return failed


def budgets(run: Path) -> list[int | None]:
    journal = JournalReader(run)
    return [journal.adapters_of(step)[-1].token_budget for step in range(1, journal.last_step + 1)]


def test_the_run_goes_on_in_halves_and_replays_clean(
    train: Train, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fails(patch, times=1)
        assert train().step == NUM_STEPS
    assert (
        f"step {FAILS_AT}: out of GPU memory with micro-batches of {BUDGET} tokens; done with {BUDGET // 2}"
        in capsys.readouterr().out
    )
    assert budgets(run) == [BUDGET, BUDGET // 2, BUDGET // 2]
    assert verify(run, from_step=0, stop_at_first=False, say=print)


def test_what_does_not_fit_in_halves_ends_the_run_which_resumes_with_a_smaller_budget(
    train: Train, run: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fails(patch, times=2)
        with pytest.raises(OutOfMemoryError, match=r"ppo\.token_budget") as caught:
            train()
    assert re.search(
        rf"of {BUDGET // 2} tokens, .* \(the memory plan has [\d.]+ [GM]iB for the trainer then",
        str(caught.value),
    )
    assert step_of(checkpoint_folders(run)[-1]) == FAILS_AT - 1
    assert train(token_budget=BUDGET // 4).step == NUM_STEPS
    assert budgets(run) == [BUDGET, BUDGET // 4, BUDGET // 4]
    assert verify(run, from_step=0, stop_at_first=False, say=print)


def test_steps_that_are_recomputed_on_a_smaller_gpu_run_out_of_memory_once(
    train: Train, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    failed = holds(monkeypatch, BUDGET // 2)
    verify(run, from_step=0, stop_at_first=False, say=print)
    assert failed == [1]


def test_a_run_goes_on_with_the_budget_that_its_recomputed_steps_fitted_in(
    train: Train, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    for folder in checkpoint_folders(run):
        if step_of(folder):
            shutil.rmtree(folder)
    failed = holds(monkeypatch, BUDGET // 2)
    train(num_steps=NUM_STEPS + 1)
    assert failed == [1]
    assert budgets(run)[-1] == BUDGET // 2
