"""Per-token rewards, returns and advantages. Pure functions on ``[B, T]`` tensors.

B is completions, T completion tokens padded on the right; ``mask`` is true on real tokens. Only
completion tokens are here: prompts take no action.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def whiten(advantages: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """Shift and scale to mean 0 and (unbiased) variance 1 over all masked tokens together.

    Args:
        advantages: Each [B, T]; the shapes may differ.
        masks: Each [B, T] bool.

    Returns:
        The same shapes, zero outside the masks. Advantages that differ by rounding alone stay
        (near) zero instead of being blown up to variance 1.
    """
    # In float64, where the mean of equal float32 numbers is that number again.
    trained = torch.cat([a[m] for a, m in zip(advantages, masks, strict=True)]).double()
    if trained.numel() == 0:
        return [torch.zeros_like(a) for a in advantages]
    mean = trained.mean()
    std = trained.std() if trained.numel() > 1 else torch.ones_like(mean)
    scale = 1 / torch.maximum(std, 1e-6 * trained.abs().max()).clamp(min=1e-8)
    return [((a - mean) * scale * m).to(a.dtype) for a, m in zip(advantages, masks, strict=True)]


def token_rewards(
    rewards: Tensor,
    policy_logprobs: Tensor,
    reference_logprobs: Tensor,
    mask: Tensor,
    terminal: Tensor,
    *,
    kl_coef: float,
) -> Tensor:
    """The reward of every token: a KL penalty each, and the completion's reward on the last.

    ``r_t = -kl_coef · (log π(a_t) - log π_ref(a_t)) + [t = last and terminal] · R``, the estimator
    k1 of the KL (Ziegler et al. 2019, eq. 2; Schulman 2020, "Approximating KL divergence").

    Args:
        rewards: [B] reward of each completion.
        policy_logprobs: [B, T] of the policy that generated, by the trainer.
        reference_logprobs: [B, T] of the reference.
        mask: [B, T] bool.
        terminal: [B] bool; false for truncated completions, which earn no terminal reward.
        kl_coef: The KL coefficient, at least 0.

    Returns:
        [B, T], zero on padding.
    """
    per_token = -kl_coef * (policy_logprobs - reference_logprobs) * mask
    last = mask.sum(dim=1) - 1
    rows = torch.arange(mask.shape[0], device=mask.device)
    per_token[rows, last] += rewards * terminal
    return per_token


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """What GAE gives: both [B, T], zero on padding, neither whitened."""

    advantages: Tensor
    returns: Tensor
    """Targets of the critic: advantages plus values."""


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    bootstrap_values: Tensor,
    *,
    gamma: float,
    lam: float,
) -> Advantages:
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16).

    ``δ_t = r_t + γ·V_{t+1} - V_t`` and ``A_t = δ_t + γλ·A_{t+1}``, where the value after the last
    token is zero for a terminal completion and the critic's estimate for a truncated one.

    Args:
        rewards: [B, T] per-token rewards.
        values: [B, T] critic's value of the state before each token.
        mask: [B, T] bool.
        bootstrap_values: [B] value of the state after the last token; zero where terminal.
        gamma: Discount.
        lam: GAE's λ.
    """
    num_tokens = rewards.shape[1]
    last = mask.sum(dim=1) - 1
    next_value = torch.zeros_like(bootstrap_values)
    next_advantage = torch.zeros_like(bootstrap_values)
    columns: list[Tensor] = []
    for t in reversed(range(num_tokens)):
        after = torch.where(last == t, bootstrap_values, next_value)
        delta = rewards[:, t] + gamma * after - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        columns.append(next_advantage)
    advantages = torch.stack(columns[::-1], dim=1)
    return Advantages(advantages=advantages, returns=(advantages + values) * mask)
