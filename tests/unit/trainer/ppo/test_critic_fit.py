"""The critic fitted before PPO: what it is fitted to, what it is measured on, and what it leaves alone."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer.config.sections import PPOConfig
from trainer.errors import DataError, OutOfMemoryError
from trainer.model.batches.batch import MicroBatch, micro_batches
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.critic_fit import CriticFit, fit_critic

MakeRoles = Callable[..., PolicyRoles]
CONFIG = PPOConfig(
    questions_per_mini_batch=4,
    token_budget=400,
    critic_learning_rate=1e-3,
    critic_pretrain_epochs=3,
    gamma=0.9,
)


def sample(prompt: Sequence[int], completion: Sequence[int], reward: float) -> Sample:
    return Sample(
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        sampler_logprobs=(),  # such as text has, which is tokenised again
        temperature=1.0,
        top_p=1.0,
        reward=reward,
        truncated=False,
        version=None,
    )


def make_groups(num_groups: int) -> list[list[Sample]]:
    """Questions of which the first token says whether their completions are rewarded."""
    rng = random.Random(5)
    groups = []
    for g in range(num_groups):
        prompt = (7 if g % 2 else 400, *rng.choices(range(500), k=3))
        lengths = [rng.randint(2, 6) for _ in range(3)]
        groups.append(
            [sample(prompt, rng.choices(range(500), k=n), 1.0 if g % 2 else -0.5) for n in lengths]
        )
    return groups


GROUPS = make_groups(40)


def cold(make_roles: MakeRoles) -> PolicyRoles:
    roles = make_roles()
    torch.nn.init.zeros_(roles.value_head.weight)
    torch.nn.init.zeros_(roles.value_head.bias)
    return roles


def fitted(
    roles: PolicyRoles, groups: Sequence[Sequence[Sample]] = GROUPS, **changes: object
) -> tuple[CriticFit, list[str]]:
    said: list[str] = []
    config = CONFIG.model_copy(update=changes)
    return fit_critic(roles, config, groups, seed=3, say=said.append), said


def critic_of(roles: PolicyRoles) -> list[torch.Tensor]:
    return [p.detach().clone() for p in roles.critic_parameters()]


def test_the_critic_learns_what_questions_it_has_not_seen_are_worth(make_roles: MakeRoles) -> None:
    roles = cold(make_roles)
    others = [roles.adapter_state(role) for role in (Role.POLICY, Role.PROXIMAL, Role.REFERENCE)]
    fit, said = fitted(roles)
    assert (fit.num_completions, fit.num_held_out) == (3 * 36, 3 * 4)
    assert fit.explained_variance_before == 0.0
    assert fit.explained_variance > 0.5
    assert 1 <= fit.num_epochs <= 3
    assert [line.split(" of ")[0] for line in said] == [f"critic, pass {i}" for i in (1, 2, 3)]
    after = [roles.adapter_state(role) for role in (Role.POLICY, Role.PROXIMAL, Role.REFERENCE)]
    for one, other in zip(others, after, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(p.grad is None for p in roles.parameters())


def test_the_same_rollouts_give_the_same_critic(make_roles: MakeRoles) -> None:
    one, other = cold(make_roles), cold(make_roles)
    assert fitted(one) == fitted(other)
    for a, b in zip(critic_of(one), critic_of(other), strict=True):
        assert torch.equal(a, b)


def test_the_explained_variance_is_of_the_discounted_rewards_of_every_token(
    make_roles: MakeRoles,
) -> None:
    # One of two questions is held out; the number of its completions says which.
    groups = [GROUPS[0], [*GROUPS[1], GROUPS[1][0]]]
    roles = cold(make_roles)
    fit, _ = fitted(roles, groups, critic_pretrain_epochs=1)
    held_out = next(group for group in groups if len(group) == fit.num_held_out)
    values, returns = [], []
    for each in held_out:
        n = len(each.completion_ids)
        (batch,) = micro_batches(
            [replace(each, sampler_logprobs=(0.0,) * n)],
            token_budget=100,
            hidden_size=roles.hidden_size,
            device=roles.device,
        )
        with torch.no_grad():
            values += roles.values(batch)[0, :n].double().tolist()
        returns += [0.9 ** (n - 1 - t) * each.reward for t in range(n)]
    errors = np.array(returns) - np.array(values)
    by_hand = 1 - errors.var(ddof=1) / np.array(returns).var(ddof=1)
    if fit.num_epochs:
        assert fit.explained_variance == pytest.approx(by_hand, abs=1e-4)
    else:
        assert fit.explained_variance == 0.0


def test_a_critic_that_only_gets_worse_stays_as_it_was(make_roles: MakeRoles) -> None:
    roles = cold(make_roles)
    before = critic_of(roles)
    # The question that the seed holds out is worth the opposite of all others.
    held_out = 3
    groups = [
        [replace(s, reward=-9.0 if g == held_out else 9.0) for s in group]
        for g, group in enumerate(GROUPS[:6])
    ]
    fit, _ = fitted(roles, groups, critic_pretrain_learning_rate=1.0)
    assert (fit.num_epochs, fit.explained_variance) == (0, 0.0)
    for a, b in zip(before, critic_of(roles), strict=True):
        assert torch.equal(a, b)


def test_truncated_completions_are_left_out(make_roles: MakeRoles) -> None:
    truncated = [[*group, replace(group[0], truncated=True, reward=99.0)] for group in GROUPS[:8]]
    only = [replace(s, truncated=True) for s in GROUPS[9]]
    found = fitted(cold(make_roles), [*truncated, only])
    assert found == fitted(cold(make_roles), GROUPS[:8])
    for too_few in ([], [GROUPS[0]], [GROUPS[0], only]):
        with pytest.raises(DataError, match=r"ppo\.critic_rollouts: fewer than 2 questions"):
            fitted(cold(make_roles), too_few)


def fails(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """Let passes of the critic, counted from 1, run out of memory."""
    real, passes = PolicyRoles.values, list[int]()

    def values(self: PolicyRoles, batch: MicroBatch) -> torch.Tensor:
        passes.append(len(batch.indices))
        if len(passes) in calls:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch)

    monkeypatch.setattr(PolicyRoles, "values", values)


@pytest.mark.parametrize("fails_at", [1, 9])
def test_a_fit_that_runs_out_of_memory_is_done_in_halves_as_if_it_had_begun_with_them(
    fails_at: int, make_roles: MakeRoles, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, roles = cold(make_roles), cold(make_roles)
    fit, _ = fitted(expected, token_budget=CONFIG.token_budget // 2)
    fails(monkeypatch, fails_at)
    assert fitted(roles)[0] == fit
    assert all(map(torch.equal, critic_of(roles), critic_of(expected)))


def test_a_fit_that_does_not_fit_in_halves_either_leaves_the_critic_and_names_the_settings(
    make_roles: MakeRoles, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = cold(make_roles)
    before = critic_of(roles)
    fails(monkeypatch, 9, 25)
    with pytest.raises(OutOfMemoryError, match=r"ppo\.token_budget"):
        fitted(roles)
    assert all(map(torch.equal, before, critic_of(roles)))
