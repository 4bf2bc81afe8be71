"""Fits the critic to rollouts before PPO begins, so that the first advantages are meaningful.

With a critic that starts at zero, PPO's first steps reinforce noise; warm-up steps that train only the critic each
cost a generation of rollouts (VAPO, arXiv 2504.05118, "value pretraining").
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from trainer.config.sections import PPOConfig
from trainer.errors import DataError, NonFiniteError
from trainer.model.batches.batch import MicroBatch
from trainer.model.batches.sample import Sample
from trainer.model.device import halved_if_out_of_memory
from trainer.model.roles import PolicyRoles, Role
from trainer.model.sharded_base import pass_guard
from trainer.ppo.advantages import generalized_advantages, token_rewards
from trainer.ppo.diagnostics import explained_variance
from trainer.ppo.experience import require_finite
from trainer.ppo.losses import token_loss_weights, value_loss
from trainer.ppo.optimizers import adamw, clip, undone_on_failure

_HELD_OUT = 0.1
"""Share of the questions that are held out of the fit, to measure it on."""

Group = Sequence[Sample]
"""The samples of one question."""


@dataclass(frozen=True, kw_only=True)
class CriticFit:
    """How well a critic was fitted."""

    num_completions: int
    """Completions that it was fitted to."""
    num_held_out: int
    """Completions of other questions, on which the explained variances are measured."""
    explained_variance_before: float
    explained_variance: float
    num_epochs: int
    """The number of passes after which the critic was best; that critic is kept. 0 if no pass improved it."""


def fit_critic(
    roles: PolicyRoles,
    config: PPOConfig,
    groups: Sequence[Group],
    *,
    seed: int,
    say: Callable[[str], None],
) -> CriticFit:
    """Fit the critic's adapter and value head to the discounted rewards of completions.

    The policy that sampled them is the reference, so there is no KL penalty in their returns. Truncated
    completions are left out: what they would have earned is not known. The weights of the pass with
    the highest held-out explained variance are kept.

    Args:
        roles: Only the critic is trained; nothing else changes.
        config: Its ``critic_pretrain_…`` keys, discount, mini-batches, loss reduction and gradient norm are used.
        groups: The samples of each question; their logprobs are not read.
        seed: Decides which questions are held out, and the order of the others.
        say: Gets a line for each pass.

    Raises:
        DataError: Fewer than two questions have a completion that is not truncated.
        NonFiniteError: A value or a gradient is not finite; the critic is as it was before.
        OutOfMemoryError: The fit does not fit into the GPU's memory, even with micro-batches of half the size; the
            critic is as it was before.
    """
    fit = partial(_fit, roles, config, groups, seed, say)
    found, _ = halved_if_out_of_memory(fit, config.token_budget)
    return found


def _fit(
    roles: PolicyRoles,
    config: PPOConfig,
    groups: Sequence[Group],
    seed: int,
    say: Callable[[str], None],
    token_budget: int,
) -> CriticFit:
    """`fit_critic` with micro-batches of at most ``token_budget`` tokens."""
    config = config.model_copy(update={"token_budget": token_budget})
    rng = random.Random(f"{seed}/critic")
    finished = [group for group in map(_finished, groups) if group]
    if len(finished) < 2:
        raise DataError("ppo.critic_rollouts: fewer than 2 questions have a completed answer")
    rng.shuffle(finished)
    num_held_out = max(1, round(_HELD_OUT * len(finished)))
    held_out, fitted = finished[:num_held_out], finished[num_held_out:]
    optimizer = adamw(
        roles.critic_parameters(),
        config.critic_pretrain_learning_rate or config.critic_learning_rate,
    )
    before = best = _held_out_variance(roles, config, held_out)
    kept, num_epochs = _critic_state(roles), 0
    with undone_on_failure((optimizer,)):
        for epoch in range(1, config.critic_pretrain_epochs + 1):
            rng.shuffle(fitted)
            for start in range(0, len(fitted), config.questions_per_mini_batch):
                chosen = fitted[start : start + config.questions_per_mini_batch]
                _fit_mini_batch(roles, config, optimizer, [s for group in chosen for s in group])
            explained = _held_out_variance(roles, config, held_out)
            say(
                f"critic, pass {epoch} of {config.critic_pretrain_epochs} over its rollouts: "
                f"explained variance {explained:+.2f} on those held out"
            )
            if explained > best:
                best, num_epochs, kept = explained, epoch, _critic_state(roles)
    _restore_critic(roles, kept)
    return CriticFit(
        num_completions=sum(map(len, fitted)),
        num_held_out=sum(map(len, held_out)),
        explained_variance_before=before,
        explained_variance=best,
        num_epochs=num_epochs,
    )


def _finished(group: Group) -> list[Sample]:
    """The samples that are not truncated, each with as many logprobs as tokens."""
    return [
        replace(sample, sampler_logprobs=(0.0,) * len(sample.completion_ids))
        for sample in group
        if not sample.truncated
    ]


def _returns(batch: MicroBatch, *, gamma: float) -> Tensor:
    """[B, C] each token's discounted future reward: GAE's returns with λ = 1, which depend on no values."""
    zero = torch.zeros_like(batch.sampler_logprobs)
    rewards = token_rewards(batch.rewards, zero, batch.mask, batch.terminal, kl_coef=0.0)
    return generalized_advantages(
        rewards, zero, batch.mask, torch.zeros_like(batch.rewards), gamma=gamma, lam=1.0
    ).returns


def _fit_mini_batch(
    roles: PolicyRoles, config: PPOConfig, optimizer: torch.optim.Optimizer, samples: Group
) -> None:
    batches = roles.micro_batches(samples, token_budget=config.token_budget)
    weights = token_loss_weights([batch.mask for batch in batches], config.loss_reduction)
    for batch, loss_weights in zip(batches, weights, strict=True):
        returns = _returns(batch, gamma=config.gamma)
        with pass_guard(roles.shared_passes):
            values = roles.values(batch)[:, :-1]
            loss, _ = value_loss(values, values.detach(), returns, loss_weights, clip=None)
            loss.backward()
    norm = clip(optimizer, config.max_grad_norm)
    if not math.isfinite(norm):
        raise NonFiniteError(f"the norm of the critic's gradient is {norm}")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def _held_out_variance(roles: PolicyRoles, config: PPOConfig, groups: Sequence[Group]) -> float:
    """Explained variance over all tokens of the groups."""
    values, returns = [], []
    for start in range(0, len(groups), config.questions_per_mini_batch):
        chosen = groups[start : start + config.questions_per_mini_batch]
        samples = [sample for group in chosen for sample in group]
        for batch in roles.micro_batches(samples, token_budget=config.token_budget):
            values.append(roles.values(batch)[:, :-1][batch.mask])
            returns.append(_returns(batch, gamma=config.gamma)[batch.mask])
    require_finite("the critic's values", torch.cat(values))
    return explained_variance(torch.cat(values), torch.cat(returns))


_CriticState = tuple[dict[str, Tensor], dict[str, Tensor]]


def _critic_state(roles: PolicyRoles) -> _CriticState:
    head = {name: tensor.clone() for name, tensor in roles.value_head.state_dict().items()}
    return roles.adapter_state(Role.CRITIC), head


def _restore_critic(roles: PolicyRoles, state: _CriticState) -> None:
    adapter, head = state
    roles.load_adapter_state(Role.CRITIC, adapter)
    roles.value_head.load_state_dict(head)
