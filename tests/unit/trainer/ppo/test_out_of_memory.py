"""A step that does not fit into the GPU's memory is done with micro-batches of half the size, or refused."""

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from inference_server.wire.digests import sha256_of_bytes
from trainer.config.sections import PPOConfig, RunConfig
from trainer.errors import OutOfMemoryError
from trainer.model.adapter import serialized
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.experience import MiniBatch
from trainer.ppo.learner import Learner

MakeRoles = Callable[..., PolicyRoles]
BUDGET = 48


def make_groups() -> list[list[Sample]]:
    rng = random.Random(0)
    return [
        [
            Sample(
                prompt_ids=(question, 7, 8),
                completion_ids=tuple(rng.choices(range(500), k=9)),
                sampler_logprobs=(-3.0,) * 9,
                temperature=1.0,
                top_p=1.0,
                reward=rng.random(),
                truncated=False,
                version=0,
            )
            for _ in range(4)
        ]
        for question in range(4)
    ]


def make_learner(make_roles: MakeRoles, token_budget: int, advantage: str = "gae") -> Learner:
    ppo = {
        "token_budget": token_budget,
        "learning_rate": 1e-2,
        "critic_learning_rate": 1e-2,
        "advantage": advantage,
        "critic_warmup_steps": 0,
    }
    return Learner(PPOConfig.model_validate(ppo), RunConfig(), make_roles(seed=0))


def run_out(
    monkeypatch: pytest.MonkeyPatch,
    *calls: int,
    error: type[RuntimeError] = torch.OutOfMemoryError,
    text: str = "CUDA out of memory",
) -> None:
    """Let backward passes, counted from 1, fail as PyTorch does where memory runs out."""
    real, passes = torch.Tensor.backward, []

    def backward(self: torch.Tensor, *arguments: object) -> None:
        passes.append(self)
        if len(passes) in calls:
            raise error(text)
        real(self, *arguments)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(torch.Tensor, "backward", backward)


def learn(learner: Learner, seen: list[Sequence[MiniBatch]] | None = None) -> str:
    """Do a step; returns the digest of the policy after it."""
    learner.step(
        1,
        make_groups(),
        learner.roles.adapter_state(Role.POLICY),
        learning_rate_scale=1.0,
        before_update=lambda batches: None if seen is None else seen.append(batches),
    )
    return sha256_of_bytes(serialized(learner.roles.adapter_state(Role.POLICY)))


@pytest.mark.parametrize("fails_at", [1, 4])
@pytest.mark.parametrize("advantage", ["gae", "rloo"])
def test_the_step_is_done_in_halves_as_if_it_had_begun_with_them(
    advantage: str, fails_at: int, make_roles: MakeRoles, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = learn(make_learner(make_roles, BUDGET // 2, advantage))
    assert learn(make_learner(make_roles, BUDGET, advantage)) != expected  # rounded differently
    learner, seen = make_learner(make_roles, BUDGET, advantage), list[Sequence[MiniBatch]]()
    run_out(monkeypatch, fails_at)
    assert learn(learner, seen) == expected
    assert learner.token_budget == BUDGET // 2
    assert len(seen) == 1  # proven and journaled once


def test_a_second_time_is_an_error_that_names_the_settings(
    make_roles: MakeRoles, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(make_roles, BUDGET)
    before = sha256_of_bytes(serialized(learner.roles.adapter_state(Role.POLICY)))
    run_out(monkeypatch, 2, 6)
    with pytest.raises(
        OutOfMemoryError, match=r"lower ppo\.token_budget, or set policy\.grad"
    ) as e:
        learn(learner)
    assert (e.value.exit_code, e.value.token_budget) == (2, BUDGET // 2)
    after = sha256_of_bytes(serialized(learner.roles.adapter_state(Role.POLICY)))
    assert before == after


def test_other_errors_are_not_tried_again(
    make_roles: MakeRoles, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(make_roles, BUDGET)
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel"))
    )
    with pytest.raises(RuntimeError, match="no kernel"):
        learn(learner)
    assert learner.token_budget == BUDGET


def test_what_a_library_of_cudas_could_not_allocate_is_done_in_halves_too(
    make_roles: MakeRoles, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = learn(make_learner(make_roles, BUDGET // 2))
    learner = make_learner(make_roles, BUDGET)
    text = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    run_out(monkeypatch, 1, error=RuntimeError, text=text)
    assert learn(learner) == expected
    assert learner.token_budget == BUDGET // 2


def test_another_error_of_the_runtime_is_raised_as_it_is(
    make_roles: MakeRoles, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(make_roles, BUDGET)
    run_out(monkeypatch, 1, error=RuntimeError, text="a device-side assert")
    with pytest.raises(RuntimeError, match="device-side assert"):
        learn(learner)
    assert learner.token_budget == BUDGET
