"""A step's samples with everything that stays fixed during its update, and whether they teach anything.

`trainer.ppo.scoring` computes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.config.sections import PPOConfig
from trainer.errors import NonFiniteError
from trainer.model.batches.batch import MicroBatch
from trainer.model.batches.sample import Sample
from trainer.model.nuclei import Nucleus


@dataclass(frozen=True, kw_only=True)
class Experience:
    """A micro-batch with everything that stays fixed during an update; tensors are [B, C]."""

    batch: MicroBatch
    shard: int = 0
    """The shard to which it belongs in its mini-batch; see `trainer.ranks.shards`."""
    nuclei: tuple[Nucleus, ...]
    """The proximal policy's nuclei, over which all roles are normalised; empty if another rank computes the shard."""
    proximal_logprobs: Tensor
    reference_kl: Tensor
    """Estimates of each token's KL(proximal ‖ reference), by ``ppo.kl_estimator``."""
    importance_weights: Tensor
    """Truncated importance weights: proximal over behaviour probability."""
    entropy: Tensor
    values: Tensor | None
    """None without a critic, like the returns."""
    returns: Tensor | None
    advantages: Tensor
    """Whitened over the step with ``ppo.whiten_advantages``."""
    loss_mask: Tensor
    """Tokens that train: all completion tokens, except those of truncated completions if these are masked."""
    policy_mask: Tensor
    """Tokens that train the policy: `loss_mask` without the completions that ``ppo.sequence_mask`` drops."""


MiniBatch = list[Experience]
"""The micro-batches of one optimizer step."""

_ROUNDING = 1e-6
"""Advantages below this are rounding errors of rewards of about 1."""
_WHITENED_ROUNDING = 1e-2
"""Advantages that are equal up to rounding stay below this after whitening (`trainer.ppo.advantages.whiten`);
others then have a standard deviation of 1."""


def unequal_groups(groups: Sequence[Sequence[Sample]]) -> list[Sequence[Sample]]:
    """The groups whose rewards differ; in the others, each completion's advantage over its group is zero."""
    rewards = [[sample.reward for sample in group] for group in groups]
    return [g for g, r in zip(groups, rewards, strict=True) if max(r) - min(r) > _ROUNDING]


def has_signal(mini_batch: MiniBatch, config: PPOConfig) -> bool:
    """Whether any token that trains the policy has an advantage that is not zero up to rounding."""
    is_whitened = config.advantage == "gae" and config.whiten_advantages
    floor = _WHITENED_ROUNDING if is_whitened else _ROUNDING
    found = [((e.advantages.abs() > floor) & e.policy_mask).any() for e in mini_batch]
    return bool(torch.stack(found).any())


def flat(mini_batches: Sequence[MiniBatch], field: str) -> Tensor:
    """[N] one field of every experience on all completion tokens."""
    return torch.cat([getattr(e, field)[e.batch.mask] for m in mini_batches for e in m])


def require_finite(what: str, numbers: Tensor) -> None:
    """Raise a `NonFiniteError` that names ``what`` if a number is NaN or infinite."""
    if num_bad := int((~numbers.isfinite()).sum()):
        raise NonFiniteError(f"{what}: {num_bad} of {numbers.numel()} are not finite")
