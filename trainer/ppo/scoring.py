"""Scores a step's samples: computes their logprobs under proximal policy and reference, values and advantages."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from trainer.config.sections import GroupEstimator, PPOConfig
from trainer.model.batches.batch import MicroBatch
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.advantages import (
    generalized_advantages,
    group_advantages,
    length_adaptive_lambda,
    token_rewards,
    whiten,
)
from trainer.ppo.experience import Experience, MiniBatch, flat, require_finite, unequal_groups
from trainer.ppo.experience_of_ranks import experience_of_all_ranks
from trainer.ppo.kl import kl_estimate
from trainer.ppo.losses import importance_weights, sequence_mask
from trainer.ranks.process_group import Ranks


@torch.no_grad()
def make_experience(
    roles: PolicyRoles,
    config: PPOConfig,
    groups: Sequence[Sequence[Sample]],
    *,
    kl_coef: float,
    seed: str,
    token_budget: int,
    ranks: Ranks,
    num_shards: int,
) -> list[MiniBatch]:
    """Compute a step's experience with the proximal policy, the reference and (with GAE) the critic.

    With ``ppo.skip_zero_advantages`` but without critic and KL penalty, groups with equal rewards are left out,
    unless all groups are such.

    Args:
        roles: The proximal role must hold the version that generated the samples.
        config: The update's settings.
        groups: The samples of each question.
        kl_coef: The coefficient of the KL penalty in this step.
        seed: Decides which questions share a mini-batch.
        token_budget: The most tokens of a micro-batch.
        ranks: The processes that compute the experience; in the end, each has all of it.
        num_shards: The number of shards of a mini-batch.

    Raises:
        NonFiniteError: A number of the samples, or one made from them, is NaN or infinite.
        RankLostError: A rank has ended.
    """
    if config.skip_zero_advantages and config.advantage != "gae" and kl_coef == 0:
        groups = unequal_groups(groups) or groups
    chosen = _shuffled(len(groups), config.questions_per_mini_batch, seed=seed)
    planned = [
        roles.micro_batches(
            [sample for i in indices for sample in groups[i]],
            token_budget=token_budget,
            num_shards=num_shards,
        )
        for indices in chosen
    ]
    mini_batches = experience_of_all_ranks(
        planned,
        partial(_experience, roles, config, kl_coef=kl_coef),
        ranks,
        _passes_for_others(roles, config),
        num_shards=num_shards,
        hidden_size=roles.hidden_size,
    )
    if config.advantage != "gae":
        with_advantages = partial(
            _with_group_advantages, estimator=config.advantage, kl_coef=kl_coef
        )
        sizes = [[len(groups[i]) for i in indices] for indices in chosen]
        mini_batches = list(map(with_advantages, mini_batches, sizes))
    _check_finite(mini_batches)
    whitens = config.advantage == "gae" and config.whiten_advantages
    return _whitened(mini_batches) if whitens else mini_batches


def _shuffled(num_groups: int, num_per_mini_batch: int, *, seed: str) -> list[list[int]]:
    """For each mini-batch, the indices of its groups."""
    order = list(range(num_groups))
    random.Random(seed).shuffle(order)
    starts = range(0, num_groups, num_per_mini_batch)
    return [order[start : start + num_per_mini_batch] for start in starts]


def _experience(
    roles: PolicyRoles, config: PPOConfig, batch: MicroBatch, *, kl_coef: float
) -> Experience:
    proximal = roles.token_logprobs(Role.PROXIMAL, batch)
    reference = roles.token_logprobs(Role.REFERENCE, batch, proximal.nuclei)
    kl = kl_estimate(proximal.logprobs, reference.logprobs, config.kl_estimator)
    # Without a critic, advantages are computed later, from the whole mini-batch; see `_with_group_advantages`.
    values, returns, advantages = None, None, torch.zeros_like(kl)
    if config.advantage == "gae":
        values, returns, advantages = _with_critic(roles, config, batch, kl, kl_coef=kl_coef)
    mask = batch.mask
    if config.truncation == "mask":
        mask = mask & batch.terminal.unsqueeze(1)
    policy_mask = mask
    if config.sequence_mask is not None:
        kept = sequence_mask(
            proximal.logprobs, batch.sampler_logprobs, batch.mask, bound=config.sequence_mask
        )
        policy_mask = mask & kept.unsqueeze(1)
    return Experience(
        batch=batch,
        nuclei=proximal.nuclei,
        proximal_logprobs=proximal.logprobs,
        reference_kl=kl,
        importance_weights=importance_weights(
            proximal.logprobs, batch.sampler_logprobs, max_weight=config.max_importance_weight
        ),
        entropy=proximal.entropy,
        values=values,
        returns=returns,
        advantages=advantages,
        loss_mask=mask,
        policy_mask=policy_mask,
    )


def _passes_for_others(roles: PolicyRoles, config: PPOConfig) -> Callable[[], None] | None:
    """A function that takes part in the passes of another rank's `_experience`; None if ranks share no passes."""
    passes = roles.shared_passes
    if passes is None:
        return None

    def of_one_micro_batch() -> None:
        for _ in range(3 if config.advantage == "gae" else 2):
            passes.of_one_token(with_gradient=False)

    return of_one_micro_batch


def _with_critic(
    roles: PolicyRoles, config: PPOConfig, batch: MicroBatch, kl: Tensor, *, kl_coef: float
) -> tuple[Tensor, Tensor, Tensor]:
    """[B, C] the critic's values and returns, and the policy's advantages; the two may have different λ."""
    all_values = roles.values(batch)
    after_last = all_values.gather(1, batch.mask.sum(dim=1, keepdim=True)).squeeze(1)
    values = torch.where(batch.mask, all_values[:, :-1], 0.0)
    estimate = partial(
        generalized_advantages,
        token_rewards(batch.rewards, kl, batch.mask, batch.terminal, kl_coef=kl_coef),
        values,
        batch.mask,
        torch.where(batch.terminal, 0.0, after_last),
        gamma=config.gamma,
    )
    policy_lambda: float | Tensor = config.gae_lambda
    if config.length_adaptive_alpha is not None:
        policy_lambda = length_adaptive_lambda(batch.mask, alpha=config.length_adaptive_alpha)
    policy = critic = estimate(lam=policy_lambda)
    if config.critic_gae_lambda is not None:
        critic = estimate(lam=config.critic_gae_lambda)
    return values, critic.returns, policy.advantages


def _with_group_advantages(
    mini_batch: MiniBatch,
    group_sizes: Sequence[int],
    *,
    estimator: GroupEstimator,
    kl_coef: float,
) -> MiniBatch:
    """The mini-batch with each completion's advantage over its group, repeated on each of the completion's tokens."""
    by_sample = torch.tensor([i for e in mini_batch for i in e.batch.indices]).argsort()

    def gathered(of_completions: list[Tensor]) -> Tensor:
        return torch.cat(of_completions)[by_sample]

    advantages = group_advantages(
        gathered([e.batch.rewards for e in mini_batch]),
        gathered([torch.where(e.batch.mask, e.reference_kl, 0.0).sum(dim=1) for e in mini_batch]),
        gathered([e.loss_mask.any(dim=1) for e in mini_batch]),
        group_sizes,
        estimator=estimator,
        kl_coef=kl_coef,
    )
    return [
        replace(
            e,
            advantages=torch.where(
                e.loss_mask, advantages[list(e.batch.indices)].unsqueeze(1), 0.0
            ),
        )
        for e in mini_batch
    ]


def _whitened(mini_batches: Sequence[MiniBatch]) -> list[MiniBatch]:
    """The mini-batches with advantages whitened over all tokens of the step that train the policy."""
    everything = [e for mini_batch in mini_batches for e in mini_batch]
    whitened = iter(whiten([e.advantages for e in everything], [e.policy_mask for e in everything]))
    return [
        [replace(e, advantages=next(whitened)) for e in mini_batch] for mini_batch in mini_batches
    ]


def _check_finite(mini_batches: Sequence[MiniBatch]) -> None:
    """Raise a `NonFiniteError` for NaN and infinity before they reach an optimizer, and say where they come from."""
    batches = [e.batch for m in mini_batches for e in m]
    require_finite("rewards", torch.cat([batch.rewards for batch in batches]))
    require_finite(
        "the server's logprobs",
        torch.cat([batch.sampler_logprobs[batch.mask] for batch in batches]),
    )
    fields = ["proximal_logprobs", "reference_kl", "importance_weights", "advantages"]
    if mini_batches[0][0].values is not None:
        fields += ["values", "returns"]
    for field in fields:
        require_finite(field, flat(mini_batches, field))
