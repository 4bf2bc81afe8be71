"""Per-token rewards, returns and advantages. Pure functions on ``[B, T]`` tensors.

B counts completions and T completion tokens, padded on the right; ``mask`` is true on real tokens. Prompt
tokens are not actions and do not occur here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.config.sections import GroupEstimator


def whiten(advantages: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """Shift and scale to mean 0 and (unbiased) variance 1 over all masked tokens together.

    Args:
        advantages: Each [B, T]; the shapes may differ.
        masks: Each [B, T] bool.

    Returns:
        The same shapes, zero outside the masks. Advantages that differ only by rounding stay (near)
        zero instead of being scaled up to variance 1.
    """
    trained = torch.cat([a[m] for a, m in zip(advantages, masks, strict=True)])
    mean, std = _mean_and_std(trained)
    return [
        torch.where(m, (a - mean) / std, 0.0).to(a.dtype)
        for a, m in zip(advantages, masks, strict=True)
    ]


def _mean_and_std(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation of [N] numbers, in float64.

    In float64 the mean of equal float32 numbers is exact. The standard deviation has a floor, so that
    rounding errors are not scaled up to variance 1.
    """
    numbers = numbers.double()
    if numbers.numel() < 2:
        return numbers.sum(), numbers.new_ones(())
    floor = (1e-6 * numbers.abs().max()).clamp(min=1e-8)
    return numbers.mean(), torch.maximum(numbers.std(), floor)


def token_rewards(
    rewards: Tensor, kl: Tensor, mask: Tensor, terminal: Tensor, *, kl_coef: float
) -> Tensor:
    """The reward of every token: a KL penalty on each, plus the completion's reward on the last.

    ``r_t = -kl_coef · KL_t + [t = last and terminal] · R`` (Ziegler et al. 2019, eq. 2).

    Args:
        rewards: [B] reward of each completion.
        kl: [B, T] estimate of each token's KL to the reference, see `trainer.ppo.kl.kl_estimate`.
        mask: [B, T] bool.
        terminal: [B] bool; false for truncated completions, which earn no terminal reward.
        kl_coef: The KL coefficient, at least 0.

    Returns:
        [B, T], zero on padding.
    """
    penalty = torch.where(mask, -kl_coef * kl, 0.0)
    earns = _is_last(mask) & terminal.unsqueeze(1)
    return torch.where(earns, penalty + rewards.unsqueeze(1), penalty)


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """Result of GAE: both [B, T], zero on padding, not whitened."""

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
    lam: float | Tensor,
) -> Advantages:
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16).

    ``δ_t = r_t + γ·V_{t+1} - V_t`` and ``A_t = δ_t + γλ·A_{t+1}``, where the value after the last
    token is zero for a terminal completion and the critic's estimate for a truncated one.

    Args:
        rewards: [B, T] per-token rewards.
        values: [B, T] the critic's value of the state before each token.
        mask: [B, T] bool.
        bootstrap_values: [B] value of the state after the last token; zero for terminal completions.
        gamma: Discount.
        lam: GAE's λ: one number for all completions, or [B], one for each.
    """
    next_values = _later(torch.where(mask, values, 0.0), 1)
    after = torch.where(_is_last(mask), bootstrap_values.unsqueeze(1), next_values)
    errors = torch.where(mask, rewards + gamma * after - values, 0.0)
    if isinstance(lam, Tensor):
        lam = lam.unsqueeze(1)
    advantages = _discounted_sums(errors, gamma * lam * mask.to(errors.dtype))
    return Advantages(advantages=advantages, returns=torch.where(mask, advantages + values, 0.0))


def _discounted_sums(terms: Tensor, factors: Tensor) -> Tensor:
    """[B, T] ``s_t = terms_t + factors_t · s_{t+1}`` in log T passes over all tokens (Hillis and Steele 1986).

    A loop over tokens would take several kernel launches for each token, and the GPU would wait for them.
    """
    distance = 1
    while distance < terms.shape[1]:
        # By now terms_t sums `distance` discounted terms from t on, and factors_t is the product of as many factors.
        terms = terms + factors * _later(terms, distance)
        factors = factors * _later(factors, distance)
        distance *= 2
    return terms


def _later(numbers: Tensor, distance: int) -> Tensor:
    """[B, T] the number that stands ``distance`` tokens later; zero after the end."""
    return nn.functional.pad(numbers[:, distance:], (0, distance))


def _is_last(mask: Tensor) -> Tensor:
    """[B, T] bool, true on each completion's last token."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    return steps == mask.sum(dim=1, keepdim=True) - 1


def length_adaptive_lambda(mask: Tensor, *, alpha: float) -> Tensor:
    """``λ = 1 - 1/(α·n)`` of completions of n tokens, at least 0 (Yue et al. 2025, VAPO).

    The weights in GAE's sum of errors then add up to α·n, so that a reward reaches the first token of a long
    completion as well as the first token of a short one.

    Args:
        mask: [B, T] bool.
        alpha: α; the paper has 0.05, with which completions of up to 20 tokens get λ = 0.

    Returns:
        [B] float32.
    """
    lengths = mask.sum(dim=1).clamp(min=1).float()
    return (1.0 - 1.0 / (alpha * lengths)).clamp(min=0.0)


def leave_one_out(numbers: Tensor) -> Tensor:
    """Each of a group's [G] numbers minus the mean of the others: ``x_i - mean_{j≠i} x_j``.

    The result sums to zero; it is zero for a group of one.
    """
    size = numbers.numel()
    if size < 2:
        return torch.zeros_like(numbers)
    # In float64, in which equal numbers equal their mean exactly.
    centred = numbers.double() - numbers.double().mean()
    return (centred * (size / (size - 1))).to(numbers.dtype)


def rloo(rewards: Tensor, penalty: Tensor) -> Tensor:
    """``A = LOO(r - P)``: RLOO with the KL in the reward (Ahmadian et al. 2024, "Back to basics").

    Args:
        rewards: [G] r of a group's completions.
        penalty: [G] P, their KL to the reference times its coefficient.
    """
    return leave_one_out(rewards - penalty)


def grpo(rewards: Tensor, penalty: Tensor) -> Tensor:
    """``A = (r - mean r) / std r - LOO(P)`` (Shao et al. 2024, §4.1.2); arguments as in `rloo`.

    As in the paper, the KL is kept out of the normalised reward: inside it, a group with equal rewards would
    be trained on its differences in KL, scaled up to a standard deviation of 1. Unlike in the paper, the KL is
    part of the advantage, and the standard deviation is unbiased.
    """
    mean, std = _mean_and_std(rewards)
    return ((rewards - mean) / std).to(rewards.dtype) - leave_one_out(penalty)


GROUP_ESTIMATORS: Mapping[GroupEstimator, Callable[[Tensor, Tensor], Tensor]] = {
    "rloo": rloo,
    "grpo": grpo,
}
"""From [G] rewards and KL penalties of a group to its [G] advantages."""


def group_advantages(
    rewards: Tensor,
    kl: Tensor,
    counted: Tensor,
    group_sizes: Sequence[int],
    *,
    estimator: GroupEstimator,
    kl_coef: float,
) -> Tensor:
    """Advantages of whole completions over the others in their group, without a critic.

    Args:
        rewards: [N] of the completions, group after group.
        kl: [N] KL estimates, summed over each completion's tokens.
        counted: [N] bool; completions that are not counted get zero, and no other is compared with them.
        group_sizes: How many completions each group has.
        estimator: One of `GROUP_ESTIMATORS`.
        kl_coef: The KL coefficient, at least 0.

    Returns:
        [N], zero in a group whose completions are equal.
    """
    advantages = torch.zeros_like(rewards)
    indices = torch.arange(len(rewards), device=rewards.device)
    for group in torch.split(indices, list(group_sizes)):
        members = group[counted[group]]
        advantages[members] = GROUP_ESTIMATORS[estimator](rewards[members], kl_coef * kl[members])
    return advantages
