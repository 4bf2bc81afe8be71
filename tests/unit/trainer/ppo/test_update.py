"""One PPO step: what is fixed before it, the gradient that it takes, and what it leaves alone."""

import math
import random
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.rounding import in_float64, rounding_bound
from tests.tiny import TINY
from trainer.config.sections import PPOConfig
from trainer.errors import NonFiniteError
from trainer.model.batches.batch import MicroBatch, micro_batches
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role, TokenLogprobs
from trainer.ppo.diagnostics import UpdateMetrics
from trainer.ppo.experience import Experience, MiniBatch
from trainer.ppo.update import PPOUpdate

CPU = torch.device("cpu")
HIDDEN_SIZE = TINY.hidden_size
NUM_NORMS = 2 * TINY.num_layers + 1
MakeRoles = Callable[..., PolicyRoles]
State = dict[str, torch.Tensor]

CONFIG = PPOConfig(
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
    questions_per_mini_batch=2,
    token_budget=40,
    max_grad_norm=1e9,
)


def make_groups(num_groups: int = 4, *, seed: int = 3) -> list[list[Sample]]:
    """Groups of three completions; every fifth completion is truncated."""
    rng = random.Random(seed)
    groups = []
    for g in range(num_groups):
        prompt = tuple(rng.choices(range(500), k=rng.randint(2, 8)))
        group = []
        for i in range(3):
            length = rng.randint(1, 7)
            group.append(
                Sample(
                    prompt_ids=prompt,
                    completion_ids=tuple(rng.choices(range(500), k=length)),
                    sampler_logprobs=tuple(rng.uniform(-7, -4) for _ in range(length)),
                    temperature=(0.3, 0.5, 1.0)[i],
                    top_p=(0.9, 0.95, 1.0)[i],
                    reward=rng.uniform(-0.5, 1.5),
                    truncated=(3 * g + i) % 5 == 4,
                    version=0,
                )
            )
        groups.append(group)
    return groups


GROUPS = make_groups()


def snapshot(roles: PolicyRoles) -> dict[str, State]:
    """Every parameter of every role, the head and the base."""
    state: dict[str, State] = {role.value: roles.adapter_state(role) for role in Role}
    state["head"] = {name: t.clone() for name, t in roles.value_head.state_dict().items()}
    state["base"] = {
        name: p.detach().clone()
        for name, p in roles.model.named_parameters()
        if "lora_" not in name
    }
    return state


def differing(one: dict[str, State], other: dict[str, State]) -> set[str]:
    """The parts that are not bit for bit the same."""
    return {
        part
        for part in one
        if any(not torch.equal(one[part][name], other[part][name]) for name in one[part])
    }


def farthest(one: Mapping[Any, Tensor], other: Mapping[Any, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def size_of(state: Mapping[Any, Tensor]) -> float:
    return max(float(tensor.abs().max()) for tensor in state.values())


def moved(before: dict[str, State], after: dict[str, State]) -> dict[str, State]:
    """How much was subtracted from every parameter."""
    return {
        part: {name: state[name] - after[part][name] for name in state}
        for part, state in before.items()
    }


def norm_rounding(exact: Mapping[Any, Tensor]) -> float:
    """How far two gradients in float64 may lie apart: the norms are float32, whatever the model's."""
    return rounding_bound(NUM_NORMS, size_of(exact))


def gradient_rounding(exact: Mapping[Any, Tensor]) -> float:
    """How far a float32 gradient may be from the exact one, in which every product sums over a state's numbers."""
    return rounding_bound(HIDDEN_SIZE, size_of(exact))


# Makes both learning rates 1.
PLAIN = 1 / CONFIG.learning_rate


def with_plain_gradients(update: PPOUpdate, roles: PolicyRoles) -> None:
    """Give the update optimizers that subtract the gradient itself if the learning rates are scaled by `PLAIN`."""
    update.policy_optimizer = torch.optim.SGD(roles.adapter_parameters(Role.POLICY), lr=1.0)
    update.critic_optimizer = torch.optim.SGD(roles.critic_parameters(), lr=1.0)


def batch_of(sample: Sample) -> MicroBatch:
    """A sample by itself."""
    (batch,) = micro_batches([sample], token_budget=1, hidden_size=128, device=CPU)
    return batch


def completion_ids(batch: MicroBatch, i: int) -> tuple[int, ...]:
    return tuple(batch.sampled.token_ids[batch.sampled_index[i]][batch.mask[i]].tolist())


def by_sample(
    mini_batches: list[MiniBatch], groups: list[list[Sample]]
) -> dict[tuple[int, ...], tuple[Experience, int]]:
    """The experience and row of each sample; completions of these tests are unique."""
    found: dict[tuple[int, ...], tuple[Experience, int]] = {}
    for mini_batch in mini_batches:
        for e in mini_batch:
            for i in range(len(e.batch.indices)):
                ids = completion_ids(e.batch, i)
                assert ids not in found
                found[ids] = (e, i)
    assert found.keys() == {s.completion_ids for group in groups for s in group}
    return found


# --- experience --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [None, 0.4])
@pytest.mark.parametrize("critic_lambda", [None, 0.7, 1.0])
@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_experience_is_what_each_sample_gives_by_itself(
    kl_coef: float, critic_lambda: float | None, alpha: float | None, make_roles: MakeRoles
) -> None:
    roles = make_roles()
    config = CONFIG.model_copy(
        update={
            "kl_coef": kl_coef,
            "whiten_advantages": False,
            "gamma": 0.99,
            "gae_lambda": 0.9,
            "critic_gae_lambda": critic_lambda,
            "length_adaptive_alpha": alpha,
        }
    )
    found = by_sample(PPOUpdate(roles, config).experience(GROUPS, seed="a"), GROUPS)
    for sample in (s for group in GROUPS for s in group):
        e, i = found[sample.completion_ids]
        alone = batch_of(sample)
        with torch.no_grad():
            scores = roles.token_logprobs(Role.PROXIMAL, alone)
            proximal = scores.logprobs[0].tolist()
            reference = (
                roles.token_logprobs(Role.REFERENCE, alone, scores.nuclei).logprobs[0].tolist()
            )
            *values, after_last = roles.values(alone)[0].tolist()
        n = len(proximal)
        rewards = [-kl_coef * (p - r) for p, r in zip(proximal, reference, strict=True)]
        if not sample.truncated:
            rewards[-1] += sample.reward
            after_last = 0.0
        after = [*values[1:], after_last]
        errors = [rewards[t] + 0.99 * after[t] - values[t] for t in range(n)]
        lam = 0.9 if alpha is None else max(0.0, 1 - 1 / (alpha * n))
        advantages, of_critic = (
            [sum((0.99 * each) ** (k - t) * errors[k] for k in range(t, n)) for t in range(n)]
            for each in (lam, lam if critic_lambda is None else critic_lambda)
        )
        weights = [
            min(math.exp(p - s), 2.0)
            for p, s in zip(proximal, sample.sampler_logprobs, strict=True)
        ]
        close = partial(pytest.approx, abs=2e-5, rel=1e-5)
        assert e.values is not None
        assert e.returns is not None
        assert e.proximal_logprobs[i, :n].tolist() == close(proximal)
        assert e.reference_kl[i, :n].tolist() == close(
            [p - r for p, r in zip(proximal, reference, strict=True)]
        )
        assert e.values[i, :n].tolist() == close(values)
        assert e.advantages[i, :n].tolist() == close(advantages)
        assert e.returns[i, :n].tolist() == close(
            [a + v for a, v in zip(of_critic, values, strict=True)]
        )
        assert e.importance_weights[i, :n].tolist() == close(weights)
        assert e.entropy[i, :n].tolist() == close(scores.entropy[0].tolist())


def test_advantages_are_whitened_over_all_tokens_of_the_step(make_roles: MakeRoles) -> None:
    roles = make_roles()
    plain = PPOUpdate(roles, CONFIG.model_copy(update={"whiten_advantages": False}))
    raw = [e for m in plain.experience(GROUPS, seed="a") for e in m]
    white = [e for m in PPOUpdate(roles, CONFIG).experience(GROUPS, seed="a") for e in m]
    everything = torch.cat([e.advantages[e.loss_mask] for e in raw]).double()
    for e, w in zip(raw, white, strict=True):
        expected = (e.advantages.double() - everything.mean()) / everything.std() * e.loss_mask
        torch.testing.assert_close(w.advantages.double(), expected, rtol=1e-4, atol=1e-5)
        assert w.returns is not None
        assert e.returns is not None
        assert torch.equal(w.returns, e.returns)  # the critic's targets keep their scale


def test_truncated_completions_can_be_left_out_of_the_losses(make_roles: MakeRoles) -> None:
    def step(truncation: str, truncated_reward: float) -> dict[str, State]:
        roles = make_roles()
        groups = [
            [replace(s, completion_ids=s.completion_ids[::-1]) if s.truncated else s for s in group]
            if truncated_reward
            else group
            for group in GROUPS
        ]
        update = PPOUpdate(roles, CONFIG.model_copy(update={"truncation": truncation}))
        # Adam would blow the rounding of a gradient near zero up to a whole step.
        with_plain_gradients(update, roles)
        update.step(update.experience(groups, seed="a"), train_policy=True)
        return snapshot(roles)

    # The truncated completions are replaced by others of the same length: masked, that is nothing.
    masked, masked_other = step("mask", 0.0), step("mask", 1.0)
    assert max(farthest(masked[part], masked_other[part]) for part in masked) < 1e-5
    assert differing(step("bootstrap", 0.0), step("bootstrap", 1.0)) == {"policy", "critic", "head"}


def test_the_seed_alone_decides_which_questions_share_a_mini_batch(make_roles: MakeRoles) -> None:
    update = PPOUpdate(make_roles(), CONFIG)

    question_of = {s.completion_ids: i for i, group in enumerate(GROUPS) for s in group}

    def questions(seed: str) -> list[set[int]]:
        found = []
        for mini_batch in update.experience(GROUPS, seed=seed):
            rows = [
                question_of[completion_ids(e.batch, i)]
                for e in mini_batch
                for i in range(len(e.batch.indices))
            ]
            assert len(rows) == 2 * 3  # two questions with all their completions
            found.append(set(rows))
        return found

    assert questions("a") == questions("a")
    assert any(questions(seed) != questions("a") for seed in "bcdef")


# --- the gradient ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantage", "reduction"),
    [("gae", "token_mean"), ("gae", "sequence_mean"), ("grpo", "sequence_mean")],
)
def test_no_token_budget_changes_the_gradients(
    advantage: str, reduction: str, make_roles: MakeRoles
) -> None:
    def step(budget: int, dtype: torch.dtype) -> tuple[dict[str, State], UpdateMetrics]:
        """The gradients of one step, and its metrics."""
        roles = make_roles(dtype=dtype)
        config = {"token_budget": budget, "advantage": advantage, "loss_reduction": reduction}
        with in_float64() if dtype is torch.float64 else nullcontext():
            update = PPOUpdate(roles, CONFIG.model_copy(update=config))
            mini_batches = update.experience(GROUPS, seed="a")
            assert (len(mini_batches[0]) == 1) is (budget == 10**9)
            with_plain_gradients(update, roles)
            before = snapshot(roles)
            metrics = update.step(mini_batches[:1], train_policy=True, learning_rate_scale=PLAIN)
            return moved(before, snapshot(roles)), metrics

    exact, exact_metrics = step(10**9, torch.float64)
    parts = ("policy", "critic", "head") if advantage == "gae" else ("policy",)
    assert all(size_of(exact[part]) > 1e-2 for part in parts)
    for budget in (1, 10):
        exact_split, _ = step(budget, torch.float64)
        for part in parts:
            assert farthest(exact[part], exact_split[part]) < norm_rounding(exact[part])
    for budget in (10**9, 1, 10):
        found, metrics = step(budget, torch.float32)
        for part in parts:
            assert farthest(exact[part], found[part]) < gradient_rounding(exact[part])
        assert metrics.by_name() == pytest.approx(
            exact_metrics.by_name(), rel=1e-4, abs=1e-5, nan_ok=True
        )


@in_float64()
def test_the_first_policy_gradient_is_the_weighted_policy_gradient(make_roles: MakeRoles) -> None:
    # Where current and proximal agree the surrogate's gradient is -Σ w·A·∇log π / tokens.
    roles = make_roles(dtype=torch.float64)
    roles.load_adapter_state(Role.POLICY, roles.adapter_state(Role.PROXIMAL))
    update = PPOUpdate(roles, CONFIG)
    (mini_batch,) = update.experience(GROUPS[:2], seed="a")
    found = by_sample([mini_batch], GROUPS[:2])
    total, num_tokens = torch.zeros(()), 0
    for sample in GROUPS[0] + GROUPS[1]:
        e, i = found[sample.completion_ids]
        n = len(sample.completion_ids)
        logprobs = roles.token_logprobs(Role.POLICY, batch_of(sample)).logprobs[0]
        total = total - (e.importance_weights[i, :n] * e.advantages[i, :n] * logprobs).sum()
        num_tokens += n
    parameters = roles.adapter_parameters(Role.POLICY)
    expected = torch.autograd.grad(total / num_tokens, parameters)
    before = [p.detach().clone() for p in parameters]

    with_plain_gradients(update, roles)
    metrics = update.step([mini_batch], train_policy=True, learning_rate_scale=PLAIN)

    subtracted = [old - p.detach() for old, p in zip(before, parameters, strict=True)]
    by_name = dict(enumerate(expected))
    assert farthest(dict(enumerate(subtracted)), by_name) < norm_rounding(by_name)
    norm = math.sqrt(sum(float((g**2).sum()) for g in expected))
    assert metrics.policy_grad_norm == pytest.approx(norm, rel=1e-6)
    assert norm > 0.1


def test_gradients_are_scaled_down_to_the_largest_norm(make_roles: MakeRoles) -> None:
    roles = make_roles()
    update = PPOUpdate(roles, CONFIG.model_copy(update={"max_grad_norm": 0.01}))
    mini_batches = update.experience(GROUPS[:2], seed="a")
    with_plain_gradients(update, roles)
    groups = {"policy": roles.adapter_parameters(Role.POLICY), "critic": roles.critic_parameters()}
    before = {name: [p.detach().clone() for p in group] for name, group in groups.items()}

    metrics = update.step(mini_batches, train_policy=True, learning_rate_scale=PLAIN)

    assert min(metrics.policy_grad_norm, metrics.critic_grad_norm) > 0.01
    for name, group in groups.items():
        moved = sum(
            ((p.detach() - old) ** 2).sum().item()
            for p, old in zip(group, before[name], strict=True)
        )
        assert math.sqrt(moved) == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
def test_rewarded_completions_become_more_likely_and_the_critic_better(
    advantage: str, make_roles: MakeRoles
) -> None:
    roles = make_roles()
    roles.load_adapter_state(Role.PROXIMAL, roles.adapter_state(Role.POLICY))
    rewarded = [[replace(s, truncated=False) for s in group] for group in GROUPS]
    rewarded = [
        [replace(s, reward=1.0 if i == 0 else -0.5) for i, s in enumerate(group)]
        for group in rewarded
    ]

    def likelihood(place: int) -> float:
        with torch.no_grad():
            return sum(
                float(roles.token_logprobs(Role.POLICY, batch_of(group[place])).logprobs.sum())
                for group in rewarded
            )

    before = [likelihood(place) for place in range(3)]
    # The critic starts at zero, where the advantage is the reward alone.
    with torch.no_grad():
        for parameter in roles.value_head.parameters():
            parameter.zero_()
    config = {"kl_coef": 0.0, "num_epochs": 3, "advantage": advantage}
    update = PPOUpdate(roles, CONFIG.model_copy(update=config))
    first = update.step(update.experience(rewarded, seed="a"), train_policy=True)
    again = update.step(update.experience(rewarded, seed="a"), train_policy=True)

    after = [likelihood(place) for place in range(3)]
    assert after[0] > before[0]
    assert after[1] < before[1]
    assert after[2] < before[2]
    if advantage == "gae":
        assert again.value_loss < first.value_loss


# --- what moves and what does not ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("train_policy", "moved"),
    [(False, {"critic", "head"}), (True, {"policy", "critic", "head"})],
)
def test_only_the_trained_roles_move(
    train_policy: bool, moved: set[str], make_roles: MakeRoles
) -> None:
    roles = make_roles()
    update = PPOUpdate(roles, CONFIG)
    before = snapshot(roles)
    metrics = update.step(update.experience(GROUPS, seed="a"), train_policy=train_policy)
    assert differing(before, snapshot(roles)) == moved
    assert metrics.policy_frozen is not train_policy
    assert (metrics.policy_grad_norm > 0) is train_policy
    assert all(p.grad is None for p in roles.parameters())


@pytest.mark.parametrize("num_epochs", [1, 3])
@pytest.mark.parametrize(("num_groups", "num_mini_batches"), [(1, 1), (2, 1), (3, 2)])
def test_every_epoch_takes_an_optimizer_step_a_mini_batch(
    num_epochs: int, num_groups: int, num_mini_batches: int, make_roles: MakeRoles
) -> None:
    update = PPOUpdate(make_roles(), CONFIG.model_copy(update={"num_epochs": num_epochs}))
    mini_batches = update.experience(GROUPS[:num_groups], seed="a")
    metrics = update.step(mini_batches, train_policy=True)
    assert len(mini_batches) == num_mini_batches
    assert metrics.num_optimizer_steps == num_epochs * num_mini_batches
    assert not metrics.stopped_early


def test_a_policy_that_moved_too_far_ends_the_step_before_the_mini_batch_that_shows_it(
    make_roles: MakeRoles,
) -> None:
    def step(
        stop_kl: float | None, num_mini_batches: int
    ) -> tuple[dict[str, State], UpdateMetrics]:
        roles = make_roles()
        roles.load_adapter_state(Role.PROXIMAL, roles.adapter_state(Role.POLICY))
        config = CONFIG.model_copy(update={"num_epochs": 2, "stop_kl": stop_kl, "kl_coef": 0.0})
        update = PPOUpdate(roles, config)
        mini_batches = update.experience(GROUPS, seed="a")[:num_mini_batches]
        metrics = update.step(mini_batches, train_policy=True, learning_rate_scale=10)
        return snapshot(roles), metrics

    stopped, metrics = step(1e-3, 2)
    assert metrics.stopped_early
    assert metrics.num_optimizer_steps == 1
    assert metrics.approx_kl_max > 1e-3  # the overshoot; the first mini-batch had none
    assert metrics.approx_kl < metrics.approx_kl_max

    unstopped, metrics = step(None, 2)
    assert not metrics.stopped_early
    assert metrics.num_optimizer_steps == 4
    assert differing(stopped, unstopped) == {"policy", "critic", "head"}
    # What was applied is the first mini-batch and nothing else; here the second one is missing.
    roles = make_roles()
    roles.load_adapter_state(Role.PROXIMAL, roles.adapter_state(Role.POLICY))
    update = PPOUpdate(roles, CONFIG.model_copy(update={"kl_coef": 0.0}))
    first = update.experience(GROUPS, seed="a")[:1]
    update.step(first, train_policy=True, learning_rate_scale=10)
    assert differing(stopped, snapshot(roles)) == set()


def test_a_mini_batch_without_a_token_to_train_moves_nothing_by_momentum(
    make_roles: MakeRoles,
) -> None:
    roles = make_roles()
    update = PPOUpdate(roles, CONFIG.model_copy(update={"truncation": "mask"}))
    update.step(update.experience(GROUPS, seed="a"), train_policy=True)
    before = snapshot(roles), optimizer_states(update)
    truncated = [[replace(sample, truncated=True) for sample in group] for group in GROUPS]
    metrics = update.step(update.experience(truncated, seed="a"), train_policy=True)
    assert differing(before[0], snapshot(roles)) == set()
    assert differing(before[1], optimizer_states(update)) == set()
    assert metrics.num_optimizer_steps == 0
    assert all(math.isfinite(value) for value in metrics.by_name().values())


def test_the_explained_variance_leaves_out_completions_that_do_not_train(
    make_roles: MakeRoles,
) -> None:
    update = PPOUpdate(make_roles(), CONFIG.model_copy(update={"truncation": "mask"}))
    mini_batches = update.experience(GROUPS, seed="a")
    values, returns = (
        torch.cat([getattr(e, name)[e.loss_mask] for m in mini_batches for e in m]).double()
        for name in ("values", "returns")
    )
    by_hand = 1 - float((returns - values).var() / returns.var())
    metrics = update.step(mini_batches, train_policy=True)
    assert metrics.explained_variance == pytest.approx(by_hand, rel=1e-3)


# --- without a critic ------------------------------------------------------------------------------


@pytest.mark.parametrize("truncation", ["bootstrap", "mask"])
@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_completions_are_compared_within_their_question(
    advantage: str, truncation: str, make_roles: MakeRoles
) -> None:
    config = CONFIG.model_copy(
        update={"advantage": advantage, "truncation": truncation, "kl_coef": 0.3}
    )
    groups = [GROUPS[0], GROUPS[1][:2], GROUPS[2], GROUPS[3][:1]]
    update = PPOUpdate(make_roles(), config)
    found = by_sample(update.experience(groups, seed="a"), groups)
    for group in groups:
        counted = [s for s in group if truncation == "bootstrap" or not s.truncated]
        kl = {}
        for sample in group:
            e, i = found[sample.completion_ids]
            n = len(sample.completion_ids)
            kl[sample] = float(e.reference_kl[i, :n].sum())
            assert e.values is None
            assert e.returns is None
        rewards = [s.reward for s in counted]
        mean = sum(rewards) / max(1, len(rewards))
        std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / max(1, len(rewards) - 1))
        for sample in group:
            e, i = found[sample.completion_ids]
            others = [s for s in counted if s is not sample]
            expected = 0.0
            if sample in counted and others:
                expected -= 0.3 * (kl[sample] - sum(kl[s] for s in others) / len(others))
                if advantage == "rloo":
                    expected += sample.reward - sum(s.reward for s in others) / len(others)
                else:
                    expected += (sample.reward - mean) / std
            assert e.advantages[i][e.batch.mask[i]].tolist() == pytest.approx(
                [expected] * len(sample.completion_ids), rel=1e-4, abs=1e-5
            )
            assert not e.advantages[i][~e.batch.mask[i]].any()
            assert bool(e.loss_mask[i].any()) is (sample in counted)


@pytest.mark.parametrize("train_policy", [True, False])
@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_without_a_critic_none_is_asked_or_trained_and_nothing_warms_up(
    advantage: str, train_policy: bool, make_roles: MakeRoles, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = make_roles()
    monkeypatch.setattr(roles, "values", None)
    update = PPOUpdate(roles, CONFIG.model_copy(update={"advantage": advantage}))
    before = snapshot(roles)
    metrics = update.step(update.experience(GROUPS, seed="a"), train_policy=train_policy)
    assert differing(before, snapshot(roles)) == {"policy"}
    assert not metrics.policy_frozen
    missing = {name for name, value in metrics.by_name().items() if math.isnan(value)}
    assert missing == {
        "ppo/value_loss",
        "ppo/value_clip_fraction",
        "ppo/explained_variance",
        "ppo/value_mean",
        "ppo/return_mean",
        "ppo/critic_grad_norm",
    }


# --- nothing to learn ------------------------------------------------------------------------------


def equal_rewards(groups: list[list[Sample]], reward: float = 0.1) -> list[list[Sample]]:
    return [[replace(s, reward=reward) for s in group] for group in groups]


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_a_mini_batch_without_an_advantage_leaves_the_policy_as_it_was(
    advantage: str, make_roles: MakeRoles
) -> None:
    changes = {"advantage": advantage, "kl_coef": 0.0, "questions_per_mini_batch": 1}
    roles = make_roles()
    update = PPOUpdate(roles, CONFIG.model_copy(update=changes))
    # Its momentum would move the policy by a whole learning rate.
    update.step(update.experience(GROUPS, seed="a"), train_policy=True)
    before, state = snapshot(roles), optimizer_states(update)
    metrics = update.step(update.experience(equal_rewards(GROUPS), seed="b"), train_policy=True)
    assert differing(before, snapshot(roles)) == set()
    assert differing(state, optimizer_states(update)) == set()
    assert (metrics.skipped_updates, metrics.num_optimizer_steps) == (4, 0)
    assert metrics.policy_loss == metrics.policy_grad_norm == 0.0
    assert metrics.approx_kl > 0.0  # measured all the same

    mixed = update.experience([*equal_rewards(GROUPS[:3]), GROUPS[3]], seed="c")
    metrics = update.step(mixed, train_policy=True)
    assert differing(before, snapshot(roles)) == {"policy"}
    # The others are not even scored.
    (((e,),),) = (mixed,)
    assert {sample.prompt_ids for sample in e.batch.samples} == {GROUPS[3][0].prompt_ids}
    assert (metrics.skipped_updates, metrics.num_optimizer_steps) == (0, 1)


def test_runs_from_before_let_momentum_move_the_policy(make_roles: MakeRoles) -> None:
    config = CONFIG.model_copy(
        update={"advantage": "rloo", "kl_coef": 0.0, "skip_zero_advantages": False}
    )
    roles = make_roles()
    update = PPOUpdate(roles, config)
    update.step(update.experience(GROUPS, seed="a"), train_policy=True)
    before = snapshot(roles)
    metrics = update.step(update.experience(equal_rewards(GROUPS), seed="b"), train_policy=True)
    assert differing(before, snapshot(roles)) == {"policy"}
    assert math.isnan(metrics.skipped_updates)


def test_the_kl_penalty_of_equal_rewards_is_a_signal(make_roles: MakeRoles) -> None:
    roles = make_roles()
    update = PPOUpdate(roles, CONFIG.model_copy(update={"advantage": "rloo", "kl_coef": 0.1}))
    before = snapshot(roles)
    metrics = update.step(update.experience(equal_rewards(GROUPS), seed="a"), train_policy=True)
    assert differing(before, snapshot(roles)) == {"policy"}
    assert metrics.skipped_updates == 0


@pytest.mark.parametrize("whiten", [True, False])
def test_without_an_advantage_the_critic_trains_alone(whiten: bool, make_roles: MakeRoles) -> None:
    # Nothing is earned and the critic says 0: every advantage is 0. The critic learns nothing new
    # then, but its momentum from the step before is its own affair.
    config = CONFIG.model_copy(
        update={"kl_coef": 0.0, "whiten_advantages": whiten, "learning_rate": 1e-2}
    )
    roles = make_roles()
    torch.nn.init.zeros_(roles.value_head.weight)
    torch.nn.init.zeros_(roles.value_head.bias)
    update = PPOUpdate(roles, config)
    before = snapshot(roles)
    metrics = update.step(
        update.experience(equal_rewards(GROUPS, 0.0), seed="a"), train_policy=True
    )
    assert differing(before, snapshot(roles)) == set()
    assert metrics.skipped_updates == metrics.num_optimizer_steps == 2
    # Rewards that are all 1 leave no advantage once they are whitened, but teach the critic.
    finished = [[replace(s, truncated=False) for s in group] for group in GROUPS]
    constant = update.experience(equal_rewards(finished, 1.0), seed="b")
    metrics = update.step(
        [[replace(e, advantages=torch.zeros_like(e.advantages)) for e in m] for m in constant],
        train_policy=True,
    )
    assert differing(before, snapshot(roles)) <= {"critic", "head"}
    assert "head" in differing(before, snapshot(roles))
    assert metrics.skipped_updates == 2


def test_whitened_rounding_errors_are_no_signal(make_roles: MakeRoles) -> None:
    config = CONFIG.model_copy(update={"kl_coef": 0.0, "gae_lambda": 1.0})
    roles = make_roles()
    torch.nn.init.zeros_(roles.value_head.weight)
    torch.nn.init.constant_(roles.value_head.bias, 0.3)
    update = PPOUpdate(roles, config)
    finished = [[replace(s, truncated=False) for s in group] for group in GROUPS]
    before = snapshot(roles)
    metrics = update.step(
        update.experience(equal_rewards(finished, 0.1), seed="a"), train_policy=True
    )
    assert "policy" not in differing(before, snapshot(roles))
    assert metrics.skipped_updates == 2


# --- the sequence mask -----------------------------------------------------------------------------


def test_completions_that_the_server_saw_otherwise_are_left_out_of_the_policy_loss_alone(
    make_roles: MakeRoles,
) -> None:
    def step(
        sequence_mask: float | None, groups: list[list[Sample]]
    ) -> tuple[dict[str, State], UpdateMetrics, dict[tuple[int, ...], tuple[Experience, int]]]:
        roles = make_roles()
        update = PPOUpdate(roles, CONFIG.model_copy(update={"sequence_mask": sequence_mask}))
        mini_batches = update.experience(groups, seed="a")
        metrics = update.step(mini_batches, train_policy=True)
        return snapshot(roles), metrics, by_sample(mini_batches, groups)

    _, metrics, found = step(None, GROUPS)
    assert metrics.sequence_masked == 0
    means = {}
    for sample in (s for group in GROUPS for s in group):
        e, i = found[sample.completion_ids]
        n = len(sample.completion_ids)
        log_ratio = e.proximal_logprobs[i, :n] - torch.tensor(sample.sampler_logprobs)
        means[sample] = math.exp(float(log_ratio.mean()))
    bound = sorted(max(mean, 1 / mean) for mean in means.values())[8] * 1.0001
    outside = {s for s, mean in means.items() if not 1 / bound <= mean <= bound}
    assert len(outside) == 3

    masked, metrics, found = step(bound, GROUPS)
    assert metrics.sequence_masked == 3 / 12
    for sample in means:
        e, i = found[sample.completion_ids]
        n = len(sample.completion_ids)
        assert e.loss_mask[i].tolist() == e.batch.mask[i].tolist()
        kept = e.loss_mask[i] & (sample not in outside)
        assert e.policy_mask[i].tolist() == kept.tolist()
        assert completion_ids(e.batch, i) == sample.completion_ids
    # Left out, a completion's reward is nothing to the policy; to the critic it is what it was.
    other = [
        [replace(s, reward=s.reward + 5) if s in outside else s for s in group] for group in GROUPS
    ]
    other_masked, _, _ = step(bound, other)
    assert differing(masked, other_masked) == {"critic", "head"}


# --- not a number ----------------------------------------------------------------------------------


def poisoned(field: str) -> list[list[Sample]]:
    """The groups with one sample of the first mini-batch turned to NaN."""
    sample = GROUPS[0][0]
    if field == "reward":
        bad = replace(sample, reward=math.nan)
    else:
        bad = replace(sample, sampler_logprobs=(math.nan,) * len(sample.completion_ids))
    return [[bad, *GROUPS[0][1:]], GROUPS[1]]


def with_number(field: str, number: float, sample: Sample) -> Sample:
    """The sample with a number for its reward, or for its first logprob."""
    if field == "reward":
        return replace(sample, reward=number)
    return replace(sample, sampler_logprobs=(number, *sample.sampler_logprobs[1:]))


def optimizer_states(update: PPOUpdate) -> dict[str, State]:
    """Every moment and counter of both optimizers."""
    return {
        name: {
            f"{i}/{moment}": value.clone()
            for i, moments in optimizer.state_dict()["state"].items()
            for moment, value in moments.items()
        }
        for name, optimizer in (
            ("policy_optimizer", update.policy_optimizer),
            ("critic_optimizer", update.critic_optimizer),
        )
    }


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo"])
@pytest.mark.parametrize(
    ("field", "message"),
    [("reward", "rewards: 1 of 12"), ("sampler_logprobs", "server's logprobs")],
)
def test_a_sample_that_is_not_a_number_is_named_before_anything_is_trained(
    field: str,
    message: str,
    advantage: str,
    truncated: bool,
    number: float,
    make_roles: MakeRoles,
) -> None:
    update = PPOUpdate(make_roles(), CONFIG.model_copy(update={"advantage": advantage}))
    bad = with_number(field, number, replace(GROUPS[0][0], truncated=truncated))
    with pytest.raises(NonFiniteError, match=message):
        update.experience([[bad, *GROUPS[0][1:]], *GROUPS[1:]], seed="a")


@pytest.mark.parametrize("failing", ["policy logprobs", "values", "policy gradient", "interrupt"])
@pytest.mark.parametrize("trained_before", [False, True])
@pytest.mark.parametrize("mini_batch", [0, 1, 3])
def test_a_step_that_fails_at_any_mini_batch_leaves_everything_as_it_was(
    mini_batch: int,
    trained_before: bool,
    failing: str,
    make_roles: MakeRoles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    roles = make_roles()
    config = CONFIG.model_copy(update={"num_epochs": 2, "token_budget": 10**9})
    update = PPOUpdate(roles, config)
    if trained_before:
        update.step(update.experience(GROUPS, seed="b"), train_policy=True)
    mini_batches = update.experience(GROUPS, seed="a")
    before = snapshot(roles), optimizer_states(update), update.kl.coef
    calls = 0

    def fails(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            nonlocal calls
            calls += 1
            if calls <= mini_batch:
                return function(*args)
            if failing == "interrupt":
                raise KeyboardInterrupt
            result = function(*args)
            if failing == "policy gradient":
                assert isinstance(result, TokenLogprobs)
                result.logprobs.register_hook(lambda gradient: gradient * math.nan)
                return result
            if isinstance(result, TokenLogprobs):
                return replace(result, logprobs=result.logprobs - torch.inf)
            assert isinstance(result, torch.Tensor)
            return result * math.nan

        return call

    name = "values" if failing == "values" else "token_logprobs"
    with monkeypatch.context() as patch:
        patch.setattr(roles, name, fails(getattr(roles, name)))
        expected = KeyboardInterrupt if failing == "interrupt" else NonFiniteError
        with pytest.raises(expected):
            update.step(mini_batches, train_policy=True)
    assert calls == mini_batch + 1

    assert differing(before[0], snapshot(roles)) == set()
    after = optimizer_states(update)
    assert {name: state.keys() for name, state in after.items()} == {
        name: state.keys() for name, state in before[1].items()
    }
    assert differing(before[1], after) == set()
    assert update.kl.coef == before[2]
    assert all(parameter.grad is None for parameter in roles.parameters())
    # And the step can be taken after all.
    update.step(mini_batches, train_policy=True)
    assert differing(before[0], snapshot(roles)) == {"policy", "critic", "head"}


@pytest.mark.parametrize("field", ["reward", "sampler_logprobs"])
def test_the_step_after_a_failed_one_is_the_same_as_without_it(
    field: str, make_roles: MakeRoles
) -> None:
    states = []
    for fails_first in (True, False):
        roles = make_roles()
        update = PPOUpdate(roles, CONFIG)
        if fails_first:
            with pytest.raises(NonFiniteError):
                update.step(update.experience(poisoned(field), seed="a"), train_policy=True)
        update.step(update.experience(GROUPS, seed="b"), train_policy=True)
        states.append(snapshot(roles))
    assert differing(*states) == set()


def test_the_learning_rate_scale_is_of_this_step_alone(make_roles: MakeRoles) -> None:
    update = PPOUpdate(make_roles(), CONFIG)
    for scale in (0.5, 0.25, 1.0):
        update.step(
            update.experience(GROUPS, seed="a"), train_policy=True, learning_rate_scale=scale
        )
        assert update.policy_optimizer.param_groups[0]["lr"] == CONFIG.learning_rate * scale
        assert update.critic_optimizer.param_groups[0]["lr"] == CONFIG.critic_learning_rate * scale


def test_a_learning_rate_scale_of_zero_moves_nothing(make_roles: MakeRoles) -> None:
    roles = make_roles()
    update = PPOUpdate(roles, CONFIG)
    before = snapshot(roles)
    update.step(update.experience(GROUPS, seed="a"), train_policy=True, learning_rate_scale=0.0)
    assert differing(before, snapshot(roles)) == set()


# --- diagnostics -----------------------------------------------------------------------------------


def test_diagnostics_of_a_first_step_worked_out_from_its_experience(make_roles: MakeRoles) -> None:
    roles = make_roles()
    roles.load_adapter_state(Role.POLICY, roles.adapter_state(Role.PROXIMAL))
    update = PPOUpdate(roles, CONFIG.model_copy(update={"questions_per_mini_batch": 4}))
    (mini_batch,) = update.experience(GROUPS, seed="a")
    found = by_sample([mini_batch], GROUPS)
    metrics = update.step([mini_batch], train_policy=True)

    mismatches, kls, values, returns, weights, losses = [], [], [], [], [], []
    for sample in (s for group in GROUPS for s in group):
        e, i = found[sample.completion_ids]
        assert e.values is not None
        assert e.returns is not None
        for t, sampled in enumerate(sample.sampler_logprobs):
            mismatches.append(abs(e.proximal_logprobs[i, t].item() - sampled))
            kls.append(e.reference_kl[i, t].item())
            values.append(e.values[i, t].item())
            returns.append(e.returns[i, t].item())
            weights.append(e.importance_weights[i, t].item())
            losses.append(-e.importance_weights[i, t].item() * e.advantages[i, t].item())
    n = len(values)
    mean_error = sum(r - v for r, v in zip(returns, values, strict=True)) / n
    mean_return = sum(returns) / n
    unexplained = sum((r - v - mean_error) ** 2 for r, v in zip(returns, values, strict=True))
    explained = 1 - unexplained / sum((r - mean_return) ** 2 for r in returns)
    expected = {
        "ppo/policy_loss": sum(losses) / n,
        "ppo/value_loss": sum((r - v) ** 2 for r, v in zip(returns, values, strict=True)) / 2 / n,
        "ppo/approx_kl": 0.0,
        "ppo/clip_fraction": 0.0,
        "ppo/value_clip_fraction": 0.0,
        "ppo/reference_kl": sum(kls) / 12,  # a completion, not a token
        "ppo/kl_coef": CONFIG.kl_coef,
        "ppo/explained_variance": explained,
        "ppo/advantage_mean": 0.0,
        "ppo/advantage_std": 1.0,
        "ppo/value_mean": sum(values) / n,
        "ppo/return_mean": mean_return,
        "ppo/importance_weight_mean": sum(weights) / n,
        "ppo/logprob_mismatch": sum(mismatches) / n,
        "ppo/logprob_mismatch_max": max(mismatches),
        "ppo/num_optimizer_steps": 1.0,
        "ppo/stopped_early": 0.0,
        "ppo/policy_frozen": 0.0,
    }
    row = metrics.by_name()
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert all(math.isfinite(value) for value in row.values())


@pytest.mark.parametrize(
    ("adaptive", "target", "steps", "factor"),
    [
        (False, 0.1, 5.0, 1.0),
        (True, 1e-9, 5.0, 1 + 0.2 / 5),
        (True, 1e9, 5.0, 1 - 0.2 / 5),
    ],
)
def test_the_kl_coefficient_moves_after_the_step_and_only_if_adaptive(
    adaptive: bool, target: float, steps: float, factor: float, make_roles: MakeRoles
) -> None:
    config = CONFIG.model_copy(
        update={
            "adaptive_kl": adaptive,
            "target_kl": target,
            "kl_horizon_steps": steps,
            "kl_coef": 0.05,
            "kl_estimator": "k3",  # of which no token's is negative
        }
    )
    update = PPOUpdate(make_roles(), config)
    metrics = update.step(update.experience(GROUPS, seed="a"), train_policy=True)
    assert metrics.kl_coef == 0.05
    assert metrics.reference_kl > 0.01
    assert update.kl.coef == pytest.approx(0.05 * factor, rel=1e-9)


def test_the_version_lag_is_how_far_the_policy_was_from_proximal_before_it_moved(
    make_roles: MakeRoles,
) -> None:
    roles = make_roles()  # whose policy is not its proximal
    update = PPOUpdate(roles, CONFIG)
    mini_batches = update.experience(GROUPS, seed="a")
    with torch.no_grad():
        lags = torch.cat(
            [
                (
                    roles.token_logprobs(Role.POLICY, e.batch, e.nuclei).logprobs
                    - e.proximal_logprobs
                )[e.batch.mask].abs()
                for e in mini_batches[0]
            ]
        )
    assert update.step(mini_batches, train_policy=True).logprob_lag == pytest.approx(
        float(lags.mean()), rel=1e-5
    )
    assert float(lags.mean()) > 1e-3
