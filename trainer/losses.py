"""PPO's losses: pure functions from ``[B, T]`` tensors to a loss and its metrics.

Three policies appear. The *behaviour* policy sampled the tokens (the server's logprobs), the
*proximal* policy is the same version scored by the trainer, the *current* policy is being trained.
PPO clips current/proximal; what is left between proximal and behaviour is numerics, corrected by a
truncated importance weight (Hilton et al. 2021, "Batch size-invariance"; Espeholt et al. 2018).

Every loss is a sum over tokens divided by ``num_tokens``, the completion tokens of the whole
mini-batch, so that splitting a mini-batch into micro-batches changes no gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PolicyMetrics:
    """Sums over real tokens; the caller divides by the number of tokens."""

    loss: float
    clipped_tokens: float
    approx_kl: float
    """Estimator k3 of KL(proximal ‖ current), summed (Schulman 2020)."""


@dataclass(frozen=True, kw_only=True)
class ValueMetrics:
    """Sums over real tokens; the caller divides by the number of tokens."""

    loss: float
    clipped_tokens: float


def importance_weights(
    proximal_logprobs: Tensor, behaviour_logprobs: Tensor, *, max_weight: float
) -> Tensor:
    """Truncated token weights ``min(π_proximal / π_behaviour, max_weight)``, [B, T], no gradient."""
    return (proximal_logprobs - behaviour_logprobs).exp().clamp(max=max_weight).detach()


def policy_loss(
    current_logprobs: Tensor,
    proximal_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    num_tokens: int,
) -> tuple[Tensor, PolicyMetrics]:
    """The clipped surrogate (Schulman et al. 2017, eq. 7), asymmetric and dual-clipped.

    With ``ρ = π_current / π_proximal``: ``L = -w · min(ρ·A, clip(ρ, 1-clip_low, 1+clip_high)·A)``;
    for negative advantages the result is bounded below by ``dual_clip·A`` (Ye et al. 2020, eq. 5).
    ``clip_high > clip_low`` is the asymmetric clip of DAPO (Yu et al. 2025, eq. 10).

    Args:
        current_logprobs: [B, T], with gradient.
        proximal_logprobs: [B, T].
        advantages: [B, T].
        weights: [B, T] importance weights, see `importance_weights`.
        mask: [B, T] bool.
        clip_low: ε below one.
        clip_high: ε above one.
        dual_clip: c > 1, or None for none.
        num_tokens: What to divide by: the completion tokens of the mini-batch.
    """
    log_ratio = current_logprobs - proximal_logprobs
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    objective = torch.minimum(unclipped, clipped)
    if dual_clip is not None:
        bounded = torch.maximum(objective, dual_clip * advantages)
        objective = torch.where(advantages < 0, bounded, objective)
    loss = -(weights * objective * mask).sum() / num_tokens
    with torch.no_grad():
        metrics = PolicyMetrics(
            loss=float(loss) * num_tokens,
            clipped_tokens=float(((clipped < unclipped) & mask).sum()),
            approx_kl=float(((ratio - 1 - log_ratio) * mask).sum()),
        )
    return loss, metrics


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip: float | None,
    num_tokens: int,
) -> tuple[Tensor, ValueMetrics]:
    """``½·max((V - R)², (clip(V, V_old ± clip) - R)²)``, as in PPO's reference implementation.

    Args:
        values: [B, T], with gradient.
        old_values: [B, T] before the update.
        returns: [B, T] targets.
        mask: [B, T] bool.
        clip: How far a value may move in one update, or None for no limit.
        num_tokens: What to divide by: the completion tokens of the mini-batch.
    """
    squared = (values - returns) ** 2
    if clip is None:
        worst, clipped_tokens = squared, 0.0
    else:
        limited = old_values + (values - old_values).clamp(-clip, clip)
        limited_squared = (limited - returns) ** 2
        worst = torch.maximum(squared, limited_squared)
        clipped_tokens = float(((limited_squared > squared) & mask).sum())
    loss = 0.5 * (worst * mask).sum() / num_tokens
    return loss, ValueMetrics(loss=float(loss.detach()) * num_tokens, clipped_tokens=clipped_tokens)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """``1 - Var(returns - values) / Var(returns)`` over [N] tokens: 1 is a perfect critic."""
    if returns.numel() < 2 or float(returns.var()) == 0.0:
        return 0.0
    return float(1 - (returns - values).var() / returns.var())


@dataclass
class AdaptiveKL:
    """Proportional control of the KL coefficient towards a target (Ziegler et al. 2019, §2.2).

    ``coef *= 1 + clip(kl / target - 1, ±0.2) · num_completions / horizon``.
    """

    coef: float
    target: float
    horizon: int
    """In completions: about how many it takes to correct an error."""

    def update(self, kl: float, num_completions: int) -> None:
        """Move the coefficient after a step whose mean KL per completion was ``kl`` nats."""
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.coef *= 1.0 + error * min(1.0, num_completions / self.horizon)
