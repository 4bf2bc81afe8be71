"""PPO's losses: pure functions from ``[B, T]`` tensors to a loss and its metrics.

Three policies appear. The *behaviour* policy sampled the tokens (the server's logprobs), the
*proximal* policy is the same version as the trainer computes it, and the *current* policy is being trained.
PPO clips the ratio current/proximal. The difference between proximal and behaviour is only numerical, and a
truncated importance weight corrects it (Hilton et al. 2021, "Batch size-invariance"; Espeholt et al. 2018).

Every loss is a sum over tokens, each multiplied by its loss weight (`token_loss_weights`), so that
splitting a mini-batch into micro-batches changes no gradient. Numbers at tokens of weight 0 have no effect,
even if they are infinite or NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.config.sections import LossReduction
from trainer.ppo.kl import MAX_LOG_RATIO, kl_estimate


@dataclass(frozen=True, kw_only=True)
class PolicyMetrics:
    """Metrics of one micro-batch's policy loss: scalars on its device, read only after the backward pass."""

    loss: Tensor
    """The micro-batch's part of the mini-batch's loss."""
    clipped_tokens: Tensor
    dual_clipped_tokens: Tensor
    approx_kl: Tensor
    """Estimator k3 of KL(proximal ‖ current), summed over tokens."""
    moved: Tensor
    """|current - proximal| logprob, summed over tokens."""
    num_not_finite: Tensor
    """Current logprobs that are NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class ValueMetrics:
    """Metrics of one micro-batch's value loss: scalars on its device, as in `PolicyMetrics`."""

    loss: Tensor
    """The micro-batch's part of the mini-batch's loss."""
    clipped_tokens: Tensor


def total(counts: Sequence[Tensor]) -> int:
    """The sum of all numbers; the host waits for the device only once."""
    return int(torch.stack([c.sum() for c in counts]).sum()) if counts else 0


def token_loss_weights(masks: Sequence[Tensor], reduction: LossReduction) -> list[Tensor]:
    """The weight of each token in the loss of a mini-batch; all weights together sum to 1.

    - ``token_mean``: ``1/N`` for each of N tokens, so that long completions weigh more
      (Yu et al. 2025, DAPO, §3.3).
    - ``sequence_mean``: ``1/(S·n)`` for each of the n tokens of one of S completions
      (Shao et al. 2024, GRPO, eq. 3). Completions without tokens do not count.

    Args:
        masks: For each micro-batch of the mini-batch, [B, T] bool.
        reduction: Whether the mean is over tokens or over completions.

    Returns:
        Each [B, T], zero outside the masks; in float64, so that the order of summation does not matter.
    """
    lengths = [mask.sum(dim=1, keepdim=True) for mask in masks]
    if reduction == "token_mean":
        num_tokens = max(1, total(lengths))
        return [mask.double() / num_tokens for mask in masks]
    num_completions = max(1, total([n > 0 for n in lengths]))
    return [
        mask.double() / (n.clamp(min=1) * num_completions)
        for mask, n in zip(masks, lengths, strict=True)
    ]


def importance_weights(
    proximal_logprobs: Tensor, behaviour_logprobs: Tensor, *, max_weight: float
) -> Tensor:
    """Truncated token weights ``min(π_proximal / π_behaviour, max_weight)``, [B, T], no gradient.

    V-trace truncates them in the same way (Espeholt et al. 2018, IMPALA, §4.1).
    """
    # A ratio that overflows to infinity is truncated like any other.
    return (proximal_logprobs - behaviour_logprobs).exp().clamp(max=max_weight).detach()


def sequence_mask(
    proximal_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor, *, bound: float
) -> Tensor:
    """The completions on which trainer and server agree well enough to train the policy, [B] bool.

    They are the completions with ``1/c ≤ (∏_t π_proximal / π_behaviour)^(1/n) ≤ c``. The bounds apply to the
    geometric mean over a completion's n tokens, so that, unlike bounds on the product, they do not depend on n
    (Liu, Li et al. 2025, "When speed kills stability", geometric sequence masking).

    Args:
        proximal_logprobs: [B, T].
        behaviour_logprobs: [B, T].
        mask: [B, T] bool.
        bound: c > 1.
    """
    log_ratio = torch.where(mask, proximal_logprobs - behaviour_logprobs, 0.0)
    mean = log_ratio.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return mean.abs() <= math.log(bound)


def policy_loss(
    current_logprobs: Tensor,
    proximal_logprobs: Tensor,
    advantages: Tensor,
    importance_weights: Tensor,
    loss_weights: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> tuple[Tensor, PolicyMetrics]:
    """The clipped surrogate (Schulman et al. 2017, eq. 7), asymmetric and dual-clipped.

    With ``ρ = π_current / π_proximal``: ``L = -w · min(ρ·A, clip(ρ, 1-clip_low, 1+clip_high)·A)``.
    For negative advantages the minimum is bounded below by ``dual_clip·A`` (Ye et al. 2020, eq. 5).
    ``clip_high > clip_low`` is the asymmetric clip of DAPO (Yu et al. 2025, eq. 10).

    Args:
        current_logprobs: [B, T], with gradient.
        proximal_logprobs: [B, T].
        advantages: [B, T].
        importance_weights: [B, T], see `importance_weights`.
        loss_weights: [B, T], see `token_loss_weights`.
        clip_low: How far ρ may fall below 1.
        clip_high: How far ρ may rise above 1.
        dual_clip: c > 1, or None for no dual clip.
    """
    mask = loss_weights > 0
    # Padding is zeroed before exp and product: 0 · inf is NaN, in the backward pass too.
    log_ratio = torch.where(mask, current_logprobs - proximal_logprobs, 0.0)
    advantages = torch.where(mask, advantages, 0.0)
    importance_weights = torch.where(mask, importance_weights, 0.0)
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    objective = torch.minimum(unclipped, clipped)
    dual_clipped = torch.zeros_like(mask)
    if dual_clip is not None:
        bound = torch.where(advantages < 0, dual_clip * advantages, -torch.inf)
        dual_clipped = objective < bound
        objective = torch.maximum(objective, bound)
    loss = -(loss_weights * importance_weights * objective).sum()
    with torch.no_grad():
        kl = kl_estimate(torch.zeros_like(log_ratio), log_ratio, "k3")
        metrics = PolicyMetrics(
            loss=loss.detach(),
            clipped_tokens=(clipped < unclipped).sum(),
            dual_clipped_tokens=dual_clipped.sum(),
            approx_kl=kl.sum(),
            moved=log_ratio.abs().sum(),
            num_not_finite=(mask & ~current_logprobs.isfinite()).sum(),
        )
    return loss, metrics


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    loss_weights: Tensor,
    *,
    clip: float | None,
) -> tuple[Tensor, ValueMetrics]:
    """``½·max((V - R)², (V_old + clip(V - V_old, ±clip) - R)²)``.

    Value clipping comes from PPO's reference implementation (Dhariwal et al. 2017, OpenAI Baselines'
    ppo2), not from the paper.

    Args:
        values: [B, T], with gradient.
        old_values: [B, T] the values before the update.
        returns: [B, T] targets.
        loss_weights: [B, T], see `token_loss_weights`.
        clip: The most that a value may change in one update, or None for no limit.
    """
    mask = loss_weights > 0
    error = torch.where(mask, values - returns, 0.0)
    squared = error**2
    clipped = torch.zeros_like(mask)
    if clip is not None:
        moved = torch.where(mask, values - old_values, 0.0)
        limited = torch.where(mask, old_values - returns, 0.0) + moved.clamp(-clip, clip)
        # Within the limit, the error itself is used; otherwise rounding would count as clipping.
        limited_squared = torch.where(moved.abs() > clip, limited, error) ** 2
        clipped = limited_squared > squared
        squared = torch.maximum(squared, limited_squared)
    loss = 0.5 * (loss_weights * squared).sum()
    return loss, ValueMetrics(loss=loss.detach(), clipped_tokens=clipped.sum())
