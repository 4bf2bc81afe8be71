"""Findings about the policy: is it the one that sampled, how far does it go, does it still explore?"""

import statistics

from trainer.config.sections import TrainConfig
from trainer.evaluation.statistics import Trend
from trainer.report.findings.finding import Finding, number, percent
from trainer.report.run_record import RunRecord

_MISMATCH_NATS = 0.02
"""Mean |trainer - server| a token; bfloat16's rounding makes about 0.01."""
_EFFECTIVE = 0.9
"""Effective sample size of the importance weights."""
_LAG_NATS = 0.1
"""Mean |logprob| that a token moved since the version that sampled it."""
_KL_PER_TOKEN = 0.2
"""Nats: every sampled token is e^0.2 = 1.2 times as likely as under the reference, on average."""
_KL_TARGETS = 3.0
"""Times ppo.target_kl: the adaptive coefficient does not hold what it was asked to."""
_STEP_KL = 0.2
"""Nats a token within one step, where the trust region of clipping is some 0.02."""
_CLIPPED = 0.3
"""Share of tokens beyond the clip range: most of the step's gradient is gone."""
_ENTROPY_LEFT = 0.2
_ENTROPY_GAINED = 3.0
"""Shares of the entropy at the start."""
_KL_UNMOVED = 1e-4
"""Nats a token."""


def mismatch(run: RunRecord, config: TrainConfig) -> Finding | None:
    """The two sides' numerics are apart."""
    nats = run.last_quarter("ppo/logprob_mismatch")
    effective = run.last_quarter("ppo/effective_sample_size")
    too_far = nats is not None and nats > _MISMATCH_NATS
    too_few = effective is not None and effective < _EFFECTIVE
    if not (too_far or too_few):
        return None
    return Finding(
        name="mismatch",
        title="Trainer and server disagree about the same version",
        evidence=f"Their logprobs of sampled tokens differ by {number(nats)} nats a token; the importance "
        f"weights leave {percent(effective)} of the tokens' weight.",
        change=f"policy.dtype ({config.policy.dtype}) and the server's --dtype to the same, float32 if "
        "memory allows; ppo.sequence_mask to leave out completions that the server saw otherwise.",
    )


def kl_blow_up(run: RunRecord, config: TrainConfig) -> Finding | None:
    """The policy leaves the reference faster than the penalty pulls."""
    kl = run.last_quarter("ppo/reference_kl")
    tokens = run.last_quarter("rollout/completion_tokens_mean")
    if kl is None or not tokens:
        return None
    ppo = config.ppo
    held = ppo.adaptive_kl and ppo.kl_coef > 0
    if kl / tokens <= _KL_PER_TOKEN and not (held and kl > _KL_TARGETS * ppo.target_kl):
        return None
    pull = (
        "ppo.kl_coef is 0, so nothing pulls it back"
        if ppo.kl_coef == 0
        else f"the coefficient stands at {number(run.last_quarter('ppo/kl_coef'))}"
    )
    return Finding(
        name="kl_blow_up",
        title="KL to the reference has blown up",
        evidence=f"{kl:.3g} nats a completion, {kl / tokens:.2g} a token, where ppo.target_kl is "
        f"{ppo.target_kl:g}; {pull}.",
        change=f"ppo.kl_coef ({ppo.kl_coef:g}) up{'' if held else ', with ppo.adaptive_kl'}; "
        f"ppo.learning_rate ({ppo.learning_rate:g}) down.",
    )


def steps_too_large(run: RunRecord, config: TrainConfig) -> Finding | None:
    """A step leaves the trust region."""
    largest = max(run.series("ppo/approx_kl_max"), default=0.0)
    clipped = run.last_quarter("ppo/clip_fraction") or 0.0
    if largest <= _STEP_KL and clipped <= _CLIPPED:
        return None
    ppo = config.ppo
    return Finding(
        name="steps_too_large",
        title="Steps are too large",
        evidence=f"A mini-batch moved the policy by up to {largest:.2g} nats a token; {clipped:.0%} of the "
        "tokens are clipped of late.",
        change=f"ppo.learning_rate ({ppo.learning_rate:g}) down; ppo.stop_kl "
        f"({'unset' if ppo.stop_kl is None else format(ppo.stop_kl, 'g')}) to 0.05, which ends a step early.",
    )


def stale(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Rollouts are of a policy that is far by now."""
    nats, lag = run.series("ppo/logprob_lag"), run.last_quarter("rollout/lag")
    if not nats or not lag or statistics.fmean(nats) <= _LAG_NATS:
        return None
    return Finding(
        name="stale",
        title="Rollouts are stale when they train",
        evidence=f"They are {lag:.1f} versions old, in which a token's logprob moves by "
        f"{statistics.fmean(nats):.2f} nats.",
        change=f"rollout.max_staleness ({config.rollout.max_staleness}) to 0, or a lower "
        f"ppo.learning_rate ({config.ppo.learning_rate:g}).",
    )


def entropy(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Exploration is gone, or all that is left."""
    values = run.series("ppo/entropy")
    if not values:
        return None
    trend = Trend.of(values)
    evidence = f"It went from {trend.first:.3g} to {trend.last:.3g} nats a token."
    rate = f"ppo.learning_rate ({config.ppo.learning_rate:g}) down"
    if trend.last < _ENTROPY_LEFT * trend.first:
        return Finding(
            name="entropy_collapse",
            title="Entropy has collapsed",
            evidence=evidence,
            change=f"ppo.clip_high ({config.ppo.clip_high:g}) to 0.28, which lets rare tokens grow; warmer "
            f"rollout.arms; ppo.kl_coef ({config.ppo.kl_coef:g}) up; {rate}.",
        )
    if trend.last > _ENTROPY_GAINED * trend.first:
        return Finding(
            name="entropy_explosion",
            title="Entropy has exploded",
            evidence=evidence,
            change=f"{rate}; ppo.kl_coef ({config.ppo.kl_coef:g}) up.",
        )
    return None


def unmoved(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Of a run that does not help and shows nothing else."""
    kl = run.last_quarter("ppo/reference_kl")
    tokens = run.last_quarter("rollout/completion_tokens_mean")
    if kl is None or not tokens or kl / tokens > _KL_UNMOVED:
        return None
    return Finding(
        name="unmoved",
        title="The policy has hardly moved",
        evidence=f"KL to the reference is {kl:.2g} nats a completion after {run.rows[-1]['step']:.0f} steps.",
        change=f"ppo.learning_rate ({config.ppo.learning_rate:g}) or run.num_steps "
        f"({config.run.num_steps}) up.",
    )
