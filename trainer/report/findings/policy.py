"""Findings about the policy: mismatch with the server, distance from the reference, step size, entropy."""

import statistics

from trainer.config.sections import TrainConfig
from trainer.evaluation.statistics import Trend
from trainer.report.findings.finding import Finding, number, percent
from trainer.report.run_record import RunRecord

_MISMATCH_NATS = 0.02
"""Mean |trainer - server| per token; bfloat16 rounding alone causes about 0.01."""
_EFFECTIVE = 0.9
"""Effective sample size of the importance weights, as a share of the tokens."""
_LAG_NATS = 0.1
"""Mean |change| of a token's logprob since the version that sampled it."""
_KL_PER_TOKEN = 0.2
"""KL to the reference, in nats: on average a sampled token is e^0.2 = 1.2 times as likely as under the reference."""
_KL_TARGETS = 3.0
"""Multiple of ppo.target_kl beyond which the adaptive coefficient has lost control."""
_STEP_KL = 0.2
"""Nats per token within one step; the trust region of clipping is about 0.02."""
_CLIPPED = 0.3
"""Share of clipped tokens, beyond which most of the gradient is lost."""
_ENTROPY_LEFT = 0.2
_ENTROPY_GAINED = 3.0
"""Multiples of the entropy at the start."""
_KL_UNMOVED = 1e-4
"""KL to the reference, in nats per token, up to which the policy has hardly moved."""


def mismatch(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Trainer and server compute different logprobs for the same version."""
    nats = run.last_quarter("ppo/logprob_mismatch")
    effective = run.last_quarter("ppo/effective_sample_size")
    too_far = nats is not None and nats > _MISMATCH_NATS
    too_few = effective is not None and effective < _EFFECTIVE
    if not (too_far or too_few):
        return None
    return Finding(
        name="mismatch",
        title="Trainer and server compute different logprobs for the same version",
        evidence=f"The logprobs of sampled tokens differ by {number(nats)} nats per token; the effective sample "
        f"size of the importance weights is {percent(effective)} of the tokens.",
        change=f"set policy.dtype ({config.policy.dtype}) and the server's --dtype to the same type, float32 "
        "if memory allows; or set ppo.sequence_mask, which leaves out completions with a large mismatch.",
    )


def kl_blow_up(run: RunRecord, config: TrainConfig) -> Finding | None:
    """KL to the reference is too high, or far above the target of an adaptive penalty."""
    kl = run.last_quarter("ppo/reference_kl")
    tokens = run.last_quarter("rollout/completion_tokens_mean")
    if kl is None or not tokens:
        return None
    ppo = config.ppo
    held = ppo.adaptive_kl and ppo.kl_coef > 0
    if kl / tokens <= _KL_PER_TOKEN and not (held and kl > _KL_TARGETS * ppo.target_kl):
        return None
    pull = (
        "ppo.kl_coef is 0, so nothing limits it"
        if ppo.kl_coef == 0
        else f"the coefficient is {number(run.last_quarter('ppo/kl_coef'))}"
    )
    return Finding(
        name="kl_blow_up",
        title="KL to the reference is too high",
        evidence=f"{kl:.3g} nats per completion, {kl / tokens:.2g} per token; ppo.target_kl is "
        f"{ppo.target_kl:g} and {pull}.",
        change=f"raise ppo.kl_coef ({ppo.kl_coef:g}){'' if held else ', with ppo.adaptive_kl'}; "
        f"lower ppo.learning_rate ({ppo.learning_rate:g}).",
    )


def steps_too_large(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Single steps leave the trust region."""
    largest = max(run.series("ppo/approx_kl_max"), default=0.0)
    clipped = run.last_quarter("ppo/clip_fraction") or 0.0
    if largest <= _STEP_KL and clipped <= _CLIPPED:
        return None
    ppo = config.ppo
    return Finding(
        name="steps_too_large",
        title="Steps are too large",
        evidence=f"A mini-batch moved the policy by up to {largest:.2g} nats per token; lately {clipped:.0%} of "
        "the tokens are clipped.",
        change=f"lower ppo.learning_rate ({ppo.learning_rate:g}); set ppo.stop_kl "
        f"({'unset' if ppo.stop_kl is None else format(ppo.stop_kl, 'g')}) to 0.05, which ends a step early.",
    )


def stale(run: RunRecord, config: TrainConfig) -> Finding | None:
    """The policy has moved far since the version that sampled the rollouts."""
    nats, lag = run.series("ppo/logprob_lag"), run.last_quarter("rollout/lag")
    if not nats or not lag or statistics.fmean(nats) <= _LAG_NATS:
        return None
    return Finding(
        name="stale",
        title="Rollouts are stale when they are trained on",
        evidence=f"They are {lag:.1f} versions old; meanwhile a token's logprob changes by "
        f"{statistics.fmean(nats):.2f} nats.",
        change=f"set rollout.max_staleness ({config.rollout.max_staleness}) to 0, or lower "
        f"ppo.learning_rate ({config.ppo.learning_rate:g}).",
    )


def entropy(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Entropy has collapsed, so that the policy no longer explores, or it has exploded."""
    values = run.series("ppo/entropy")
    if not values:
        return None
    trend = Trend.of(values)
    evidence = f"It went from {trend.first:.3g} to {trend.last:.3g} nats per token."
    rate = f"lower ppo.learning_rate ({config.ppo.learning_rate:g})"
    if trend.last < _ENTROPY_LEFT * trend.first:
        return Finding(
            name="entropy_collapse",
            title="Entropy has collapsed",
            evidence=evidence,
            change=f"set ppo.clip_high ({config.ppo.clip_high:g}) to 0.28, so that rare tokens can become more "
            f"likely; use rollout.arms with higher temperatures; raise ppo.kl_coef ({config.ppo.kl_coef:g}); {rate}.",
        )
    if trend.last > _ENTROPY_GAINED * trend.first:
        return Finding(
            name="entropy_explosion",
            title="Entropy has exploded",
            evidence=evidence,
            change=f"{rate}; raise ppo.kl_coef ({config.ppo.kl_coef:g}).",
        )
    return None


def unmoved(run: RunRecord, config: TrainConfig) -> Finding | None:
    """The policy has hardly moved; only looked for if RL does not help and there is no other finding."""
    kl = run.last_quarter("ppo/reference_kl")
    tokens = run.last_quarter("rollout/completion_tokens_mean")
    if kl is None or not tokens or kl / tokens > _KL_UNMOVED:
        return None
    return Finding(
        name="unmoved",
        title="The policy has hardly moved",
        evidence=f"KL to the reference is {kl:.2g} nats per completion after {run.rows[-1]['step']:.0f} steps.",
        change=f"raise ppo.learning_rate ({config.ppo.learning_rate:g}) or run.num_steps "
        f"({config.run.num_steps}).",
    )
