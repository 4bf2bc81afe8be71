"""Diagnostics of an update: sums over its micro-batches, and the step's metrics computed from them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from trainer.ppo.experience import MiniBatch, flat
from trainer.ppo.losses import PolicyMetrics, ValueMetrics, total


@dataclass(frozen=True, kw_only=True)
class UpdateMetrics:
    """Diagnostics of one step; means are over completion tokens unless stated otherwise.

    The critic's fields are NaN without a critic. In a step without samples, what is measured on samples is NaN.
    """

    policy_loss: float
    """The loss that is minimised: the mean over mini-batches."""
    value_loss: float = math.nan
    approx_kl: float
    """KL of the policy from the version that generated, nats per token: the mean over mini-batches,
    each before its own optimizer step."""
    approx_kl_max: float
    """The largest ``approx_kl`` of a mini-batch; with ``ppo.stop_kl``, the value that stopped the step."""
    clip_fraction: float
    dual_clip_fraction: float
    value_clip_fraction: float = math.nan
    entropy: float
    reference_kl: float
    """KL to the reference by ``ppo.kl_estimator``, nats per completion."""
    kl_coef: float
    explained_variance: float = math.nan
    """Measured over the tokens that train."""
    advantage_mean: float
    advantage_std: float
    value_mean: float = math.nan
    return_mean: float = math.nan
    importance_weight_mean: float
    effective_sample_size: float
    """That of the importance weights, as a fraction of the tokens."""
    sequence_masked: float
    """Fraction of the completions that ``ppo.sequence_mask`` left out of the policy loss."""
    logprob_mismatch: float
    """Mean |trainer - server| logprob of the sampled tokens under the version that sampled them."""
    logprob_mismatch_max: float
    logprob_lag: float
    """Mean |current - proximal| logprob before the policy moves, over the first mini-batch: the effect of
    the version lag. Zero, up to rounding, if the newest version generated the rollouts."""
    policy_grad_norm: float
    critic_grad_norm: float = math.nan
    num_optimizer_steps: int
    """How many mini-batches were applied."""
    skipped_updates: float
    """How many mini-batches had no advantage, so that the policy stayed as it was; NaN without
    ``ppo.skip_zero_advantages``."""
    stopped_early: bool
    policy_frozen: bool
    """True in the critic's warm-up steps, and in a step without samples."""

    def by_name(self) -> dict[str, float]:
        """The fields under ``ppo/`` names."""
        return {f"ppo/{name}": float(value) for name, value in asdict(self).items()}


@dataclass
class LossSums:
    """Sums over micro-batches: those of one shard of a mini-batch, of a mini-batch, or of a step."""

    policy_loss: float = 0.0
    value_loss: float = 0.0
    approx_kl: float = 0.0
    moved: float = 0.0
    """|current - proximal| logprob, summed over tokens."""
    clipped_tokens: int = 0
    dual_clipped_tokens: int = 0
    clipped_values: int = 0
    num_not_finite: int = 0
    """Logprobs of the policy that are NaN or infinite."""

    def add_losses(self, policy: Sequence[PolicyMetrics], value: Sequence[ValueMetrics]) -> None:
        """Add the metrics of micro-batches, in their order."""
        for of_policy in _numbers(policy):
            self.policy_loss += of_policy["loss"]
            self.approx_kl += of_policy["approx_kl"]
            self.clipped_tokens += int(of_policy["clipped_tokens"])
            self.dual_clipped_tokens += int(of_policy["dual_clipped_tokens"])
            self.moved += of_policy["moved"]
            self.num_not_finite += int(of_policy["num_not_finite"])
        for of_value in _numbers(value):
            self.value_loss += of_value["loss"]
            self.clipped_values += int(of_value["clipped_tokens"])

    def add(self, part: "LossSums") -> None:
        """Add the sums over other micro-batches."""
        for field in fields(LossSums):
            setattr(self, field.name, getattr(self, field.name) + getattr(part, field.name))


@dataclass
class StepSums(LossSums):
    """A step's sums over its micro-batches and over its mini-batches."""

    approx_kl_max: float = 0.0
    """The largest ``approx_kl`` of a mini-batch."""
    logprob_lag: float = 0.0
    """Of the first mini-batch; see `UpdateMetrics`."""
    num_policy_tokens: int = 0
    num_value_tokens: int = 0
    num_mini_batches: int = 0
    policy_grad_norm: float = 0.0
    critic_grad_norm: float = 0.0
    num_optimizer_steps: int = 0
    skipped_updates: int = 0
    stopped_early: bool = False


def _numbers(metrics: Sequence[PolicyMetrics | ValueMetrics]) -> list[dict[str, float]]:
    """The fields of each as numbers; the host waits for the device only once."""
    if not metrics:
        return []
    rows = torch.stack([torch.stack([t.double() for t in vars(m).values()]) for m in metrics])
    return [dict(zip(vars(metrics[0]), row, strict=True)) for row in rows.tolist()]


def logprob_mismatches(mini_batches: Sequence[MiniBatch]) -> Tensor:
    """|trainer - server| logprob of every sampled token under the version that sampled it, [N]."""
    everything = [e for m in mini_batches for e in m]
    sampler = torch.cat([e.batch.sampler_logprobs[e.batch.mask] for e in everything])
    return (flat(mini_batches, "proximal_logprobs") - sampler).abs()


def update_metrics(
    mini_batches: Sequence[MiniBatch],
    sums: StepSums,
    *,
    kl_coef: float,
    policy_frozen: bool,
    skips_updates: bool,
) -> UpdateMetrics:
    """Diagnostics from the step's experience and the sums of its optimizer steps.

    Args:
        mini_batches: The step's experience.
        sums: The sums of its optimizer steps.
        kl_coef: The KL coefficient that the step used.
        policy_frozen: Whether only the critic was trained.
        skips_updates: Whether mini-batches without an advantage leave the policy as it is.
    """
    everything = [e for m in mini_batches for e in m]
    weights, advantages = flat(mini_batches, "importance_weights"), flat(mini_batches, "advantages")
    mismatch = logprob_mismatches(mini_batches)
    num_completions = sum(len(e.batch.indices) for e in everything)
    num_masked = total([e.loss_mask.any(dim=1) & ~e.policy_mask.any(dim=1) for e in everything])
    num_mini_batches = max(1, sums.num_mini_batches)
    num_steps = max(1, sums.num_optimizer_steps)
    num_policy_tokens = max(1, sums.num_policy_tokens)
    return UpdateMetrics(
        policy_loss=sums.policy_loss / num_mini_batches,
        approx_kl=sums.approx_kl / num_policy_tokens,
        approx_kl_max=sums.approx_kl_max,
        clip_fraction=sums.clipped_tokens / num_policy_tokens,
        dual_clip_fraction=sums.dual_clipped_tokens / num_policy_tokens,
        entropy=float(flat(mini_batches, "entropy").mean()),
        reference_kl=float(flat(mini_batches, "reference_kl").sum()) / num_completions,
        kl_coef=kl_coef,
        advantage_mean=float(advantages.mean()),
        advantage_std=float(advantages.std()),
        importance_weight_mean=float(weights.mean()),
        effective_sample_size=effective_sample_size(weights),
        sequence_masked=num_masked / num_completions,
        logprob_mismatch=float(mismatch.mean()),
        logprob_mismatch_max=float(mismatch.max()),
        logprob_lag=sums.logprob_lag,
        policy_grad_norm=sums.policy_grad_norm / num_steps,
        num_optimizer_steps=sums.num_optimizer_steps,
        skipped_updates=sums.skipped_updates if skips_updates else math.nan,
        stopped_early=sums.stopped_early,
        policy_frozen=policy_frozen,
        **_critic_metrics(mini_batches, sums),
    )


def metrics_without_samples(*, kl_coef: float) -> UpdateMetrics:
    """Diagnostics of a step that had no samples to learn from; ``kl_coef`` is the KL coefficient."""
    return UpdateMetrics(
        policy_loss=math.nan,
        approx_kl=math.nan,
        approx_kl_max=math.nan,
        clip_fraction=math.nan,
        dual_clip_fraction=math.nan,
        entropy=math.nan,
        reference_kl=math.nan,
        kl_coef=kl_coef,
        advantage_mean=math.nan,
        advantage_std=math.nan,
        importance_weight_mean=math.nan,
        effective_sample_size=math.nan,
        sequence_masked=math.nan,
        logprob_mismatch=math.nan,
        logprob_mismatch_max=math.nan,
        logprob_lag=math.nan,
        policy_grad_norm=math.nan,
        num_optimizer_steps=0,
        skipped_updates=math.nan,
        stopped_early=False,
        policy_frozen=True,
    )


def _critic_metrics(mini_batches: Sequence[MiniBatch], sums: StepSums) -> dict[str, float]:
    """The critic's fields of `UpdateMetrics`; none without a critic."""
    everything = [e for m in mini_batches for e in m]
    if everything[0].values is None:
        return {}
    values, returns = flat(mini_batches, "values"), flat(mini_batches, "returns")
    trained = torch.cat([e.loss_mask[e.batch.mask] for e in everything])
    return {
        "value_loss": sums.value_loss / max(1, sums.num_mini_batches),
        "value_clip_fraction": sums.clipped_values / max(1, sums.num_value_tokens),
        "explained_variance": explained_variance(values[trained], returns[trained]),
        "value_mean": float(values.mean()),
        "return_mean": float(returns.mean()),
        "critic_grad_norm": sums.critic_grad_norm / max(1, sums.num_optimizer_steps),
    }


def effective_sample_size(weights: Tensor) -> float:
    """``(Σw)² / (N·Σw²)`` of [N] weights: as a fraction of N, how many unweighted samples they are worth.

    1 if all weights are equal, 1/N if only one is not 0 (Kish 1965); 0 if all are 0.
    """
    weights = weights.double()
    squares = float((weights**2).sum()) * weights.numel()
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """``1 - Var(returns - values) / Var(returns)`` over [N] tokens: 1 is a perfect critic."""
    # The variance of equal returns is only rounding.
    if returns.numel() < 2 or float(returns.std()) <= 1e-6 * float(returns.abs().max()):
        return 0.0
    return float(1 - (returns - values).var() / returns.var())
