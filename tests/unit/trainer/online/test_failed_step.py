"""A step that ends in NaN leaves nothing but what is needed to see why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.unit import runs_in_memory
from tests.unit.memory_server import MemoryServer
from trainer.config.sections import TrainConfig
from trainer.errors import NonFiniteError, SyncError
from trainer.io.metrics_file import read_metrics
from trainer.io.run_layout import checkpoint_folders, step_of
from trainer.online.loop import TrainResult
from trainer.online.weight_sync.proofs import Proofs
from trainer.ppo.learner import Learner
from trainer.rollouts.groups import RolloutBatch
from trainer.run_state.journal_reader import JournalReader

NUM_STEPS, FAILS_AT = 4, 3


@pytest.fixture
def config(tiny_base: Path, tmp_path: Path) -> TrainConfig:
    return runs_in_memory.small_config(tiny_base, tmp_path / "run", num_steps=NUM_STEPS)


@pytest.fixture
def train(config: TrainConfig, tiny_base: Path) -> Callable[[], TrainResult]:
    """Runs against a server that is the same for every call."""
    server = MemoryServer(runs_in_memory.server_roles(tiny_base))
    return lambda: runs_in_memory.train(config, server)


@pytest.mark.parametrize("method", ["experience", "learn"])
def test_the_batch_is_kept_and_the_run_resumes_from_before_it(
    method: str, config: TrainConfig, train: Callable[[], TrainResult]
) -> None:
    run = config.run.folder
    real = getattr(Learner, method)

    def failing(self: Learner, step: int, *arguments: Any, **options: Any) -> Any:
        if step == FAILS_AT:
            raise NonFiniteError("the norms of the gradients are nan (critic) and 1.0 (policy)")
        return real(self, step, *arguments, **options)

    # The second time no supervisor tries it again.
    for exit_code, advice in ((3, "the same command asks its questions once more"), (2, "")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Learner, method, failing)
            with pytest.raises(NonFiniteError) as caught:
                train()
        assert caught.value.exit_code == exit_code
        assert str(caught.value).endswith(advice or "failed/step-000003")
    kept = run / f"failed/step-{FAILS_AT:06d}"
    message = str(caught.value)
    assert message.startswith(f"step {FAILS_AT}: the norms of the gradients are nan")
    assert str(kept) in message
    assert "\n" not in message
    assert (kept / "error.txt").read_text().startswith("the norms of the gradients are nan")
    groups = [json.loads(line) for line in (kept / "rollouts.jsonl").read_text().splitlines()]
    assert [group["step"] for group in groups] == [FAILS_AT] * 2
    PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(config.policy.base_model), kept / "policy"
    )
    # The last good state is a checkpoint, and the failed step is nowhere else.
    assert step_of(checkpoint_folders(run)[-1]) == FAILS_AT - 1
    assert JournalReader(run).last_step == FAILS_AT - 1
    assert not (run / f"rollouts/step-{FAILS_AT:06d}.jsonl").exists()
    assert [row["step"] for row in read_metrics(run)] == list(range(1, FAILS_AT))

    result = train()
    assert (result.step, result.stopped) == (NUM_STEPS, False)
    assert [row["step"] for row in read_metrics(run)] == list(range(1, NUM_STEPS + 1))
    # Its questions were asked again, of the same version.
    again = (run / f"rollouts/step-{FAILS_AT:06d}.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in again] == [group["id"] for group in groups]
    assert {json.loads(line)["policy_version"] for line in again} == {
        group["policy_version"] for group in groups
    }


def test_a_step_whose_failure_a_kill_has_hidden_is_found_by_the_next_start(
    config: TrainConfig, train: Callable[[], TrainResult]
) -> None:
    run = config.run.folder
    real = Learner.learn

    def killed(self: Learner, step: int, *arguments: Any, **options: Any) -> Any:
        if step == FAILS_AT:
            raise MemoryError  # Nobody expects it: as good as a kill.
        return real(self, step, *arguments, **options)

    def failing(self: Learner, step: int, *arguments: Any, **options: Any) -> Any:
        if step == FAILS_AT:
            raise NonFiniteError("a number is nan")
        return real(self, step, *arguments, **options)

    for learn, error in ((killed, MemoryError), (failing, NonFiniteError)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Learner, "learn", learn)
            with pytest.raises(error) as caught:
                train()
    assert isinstance(caught.value, NonFiniteError)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"step {FAILS_AT}: a number is nan")
    assert JournalReader(run).last_step == FAILS_AT - 1
    assert train().step == NUM_STEPS


def test_a_failed_proof_leaves_a_checkpoint_and_its_rollouts_untrained(
    config: TrainConfig, train: Callable[[], TrainResult]
) -> None:
    run = config.run.folder
    real, asked = Proofs.prove_rollouts, []

    def failing(self: Proofs, batch: RolloutBatch, *arguments: Any) -> None:
        asked.append(batch)
        if len(asked) == FAILS_AT:
            raise SyncError("version 1 fails the weight-sync check")
        real(self, batch, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Proofs, "prove_rollouts", failing)
        with pytest.raises(SyncError):
            train()
    assert step_of(checkpoint_folders(run)[-1]) == FAILS_AT - 1
    assert JournalReader(run).last_step == FAILS_AT - 1
    assert train().step == NUM_STEPS
    assert [row["step"] for row in read_metrics(run)] == list(range(1, NUM_STEPS + 1))
