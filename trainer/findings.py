"""What a run's metrics say about it: each finding with its evidence and the setting to change.

Rules are functions of a `RunRecord`, in the order in which one thing leads to the next: a reward that
means something, a policy that is trained on what it did, steps of a sound size, a policy that goes on
exploring, groups and a critic that tell it something. The first that fires is the likeliest cause.
Levels are means over the last quarter of the steps. Every threshold is a constant with its reason.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from trainer.accuracy_table import signed
from trainer.config import TrainConfig
from trainer.run_record import RunRecord
from trainer.statistics import Trend

MIN_STEPS = 8
"""Of fewer steps neither a trend nor a level means anything."""

MEANINGLESS = ("reward_ignores_correctness", "golds_do_not_fit")
"""Findings with which a better policy is no merit of the reward."""

_FOLLOWS = 0.3
"""A reward of correctness plus coherence correlates with correctness by 0.9 and more within groups."""
_GOLD_SHARE = 0.5
"""Of the held-out accuracy that training must reach at least once, if its golds are right."""
_AGREEING = 0.5
"""Share of pairs of arms that agree, above which they know what they answer."""
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
_TRUNCATED = 0.1
_ZERO_VARIANCE = 0.5
_SOLVED = 0.7
"""Share correct above which groups without variance are solved ones rather than hopeless ones."""
_EXPLAINED = 0.1
_LAG_NATS = 0.1
"""Mean |logprob| that a token moved since the version that sampled it."""
_MISMATCH_NATS = 0.02
"""Mean |trainer - server| a token; bfloat16's rounding makes about 0.01."""
_EFFECTIVE = 0.9
"""Effective sample size of the importance weights."""
_REWARD_RISE = 0.05
_COHERENCE_RISE = 0.03
_KL_UNMOVED = 1e-4
"""Nats a token."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that the metrics show."""

    name: str
    """For programs."""
    title: str
    evidence: str
    """The numbers, in sentences."""
    change: str
    """Which setting to change, and how."""


def findings_of(run: RunRecord, *, helps: bool) -> tuple[Finding, ...]:
    """What a run's metrics show, the likeliest cause first.

    Args:
        run: The run; where its configuration cannot be read, the defaults are assumed.
        helps: Whether the paired test says that RL is helping.
    """
    if len(run.rows) < MIN_STEPS:
        return ()
    config = run.config or TrainConfig()
    found = [rule(run, config) for rule in _RULES]
    if not helps:
        found.append(_reward_without_accuracy(run, config))
        if not any(found):
            found.append(_unmoved(run, config))
    return tuple(finding for finding in found if finding is not None)


# --- the reward -----------------------------------------------------------------------------------


def _reward_ignores_correctness(run: RunRecord, config: TrainConfig) -> Finding | None:
    values = run.series("reward/follows_correct")
    if not values or statistics.fmean(values) >= _FOLLOWS:
        return None
    return Finding(
        name="reward_ignores_correctness",
        title="The reward does not follow correctness",
        evidence=f"Within groups, reward and correctness correlate by {statistics.fmean(values):+.2f} "
        f"(mean of {len(values)} steps); a reward that pays for right answers comes to 0.9 and more.",
        change=f"reward.correct_bonus ({config.reward.correct_bonus:g}) over reward.wrong_base "
        f"({config.reward.wrong_base:g}), or the code that pays: "
        "python -m regime_w score shows what each rollout earns.",
    )


def _golds_do_not_fit(run: RunRecord, config: TrainConfig) -> Finding | None:
    correct, agreement = run.series("reward/correct"), run.last_quarter("scores/s_end")
    if run.compared is None or not correct or agreement is None:
        return None
    start, _ = run.compared
    # On questions that are only too hard, arms err apart.
    if max(correct) >= _GOLD_SHARE * start.accuracy.low or agreement < _AGREEING:
        return None
    return Finding(
        name="golds_do_not_fit",
        title="Training calls wrong what evaluation calls right",
        evidence=f"{start.label} answers {start.accuracy.value:.0%} of the held-out questions right, but "
        f"no step of training had more than {max(correct):.0%} of its completions judged so, though "
        f"{agreement:.0%} of the pairs of arms agree.",
        change=f"data.source ({config.data.source}): its gold answers do not fit its questions.",
    )


# --- the policy that sampled and the one that trains ----------------------------------------------


def _mismatch(run: RunRecord, config: TrainConfig) -> Finding | None:
    nats = run.last_quarter("ppo/logprob_mismatch")
    effective = run.last_quarter("ppo/effective_sample_size")
    too_far = nats is not None and nats > _MISMATCH_NATS
    too_few = effective is not None and effective < _EFFECTIVE
    if not (too_far or too_few):
        return None
    return Finding(
        name="mismatch",
        title="Trainer and server disagree about the same version",
        evidence=f"Their logprobs of sampled tokens differ by {_number(nats)} nats a token; the importance "
        f"weights leave {_percent(effective)} of the tokens' weight.",
        change=f"policy.dtype ({config.policy.dtype}) and the server's --dtype to the same, float32 if "
        "memory allows; ppo.sequence_mask to leave out completions that the server saw otherwise.",
    )


def _stale(run: RunRecord, config: TrainConfig) -> Finding | None:
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


# --- the size of the steps ------------------------------------------------------------------------


def _kl_blow_up(run: RunRecord, config: TrainConfig) -> Finding | None:
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
        else f"the coefficient stands at {_number(run.last_quarter('ppo/kl_coef'))}"
    )
    return Finding(
        name="kl_blow_up",
        title="KL to the reference has blown up",
        evidence=f"{kl:.3g} nats a completion, {kl / tokens:.2g} a token, where ppo.target_kl is "
        f"{ppo.target_kl:g}; {pull}.",
        change=f"ppo.kl_coef ({ppo.kl_coef:g}) up{'' if held else ', with ppo.adaptive_kl'}; "
        f"ppo.learning_rate ({ppo.learning_rate:g}) down.",
    )


def _steps_too_large(run: RunRecord, config: TrainConfig) -> Finding | None:
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


# --- exploration ----------------------------------------------------------------------------------


def _entropy(run: RunRecord, config: TrainConfig) -> Finding | None:
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


def _truncation(run: RunRecord, config: TrainConfig) -> Finding | None:
    share = run.last_quarter("rollout/truncated")
    if share is None or share <= _TRUNCATED:
        return None
    tokens = run.last_quarter("rollout/completion_tokens_mean")
    return Finding(
        name="truncation",
        title="Completions are cut off",
        evidence=f"{share:.0%} hit the token limit; the mean is {_number(tokens)} tokens of "
        f"{config.rollout.max_tokens}.",
        change=f"rollout.max_tokens ({config.rollout.max_tokens}) up; ppo.truncation "
        f'({config.ppo.truncation}) to "mask" leaves them out of the losses.',
    )


# --- what there is to learn from ------------------------------------------------------------------


def _zero_variance(run: RunRecord, config: TrainConfig) -> Finding | None:
    share = run.last_quarter("rollout/zero_variance_groups")
    correct = run.last_quarter("reward/correct")
    if share is None or correct is None or share <= _ZERO_VARIANCE:
        return None
    solved = correct > _SOLVED
    refill = "" if config.rollout.refill_zero_variance else "rollout.refill_zero_variance on; "
    return Finding(
        name="zero_variance",
        title=f"Most groups are {'solved' if solved else 'hopeless'}: their completions all earn the same",
        evidence=f"{share:.0%} of the groups, with {correct:.0%} of the completions correct.",
        change=refill
        + (
            f"harder questions in data.source, or data.curriculum "
            f"({'unset' if config.data.curriculum is None else config.data.curriculum}) to 1."
            if solved
            else f"easier questions, more rollout.samples_per_arm ({config.rollout.samples_per_arm}), or "
            "better SFT first."
        ),
    )


def _critic(run: RunRecord, config: TrainConfig) -> Finding | None:
    # Of a step whose returns hardly vary it runs to minus infinity: the median, not the mean.
    values = run.series("ppo/explained_variance")
    if config.ppo.advantage != "gae" or not values:
        return None
    median = statistics.median(values[-max(1, len(values) // 4) :])
    if median >= _EXPLAINED:
        return None
    ppo = config.ppo
    return Finding(
        name="critic",
        title="The critic explains nothing",
        evidence=f"Its explained variance is {median:+.2f} of late; 1 would be all, 0 no better than the "
        "returns' mean.",
        change=f"ppo.critic_learning_rate ({ppo.critic_learning_rate:g}) or ppo.critic_warmup_steps "
        f'({ppo.critic_warmup_steps}) up; or ppo.advantage = "rloo", which needs none.',
    )


def _coherence_without_correctness(run: RunRecord, config: TrainConfig) -> Finding | None:
    agreement, correct = run.series("scores/s_end"), run.series("reward/correct")
    if not agreement or not correct:
        return None
    coherence, correctness = Trend.of(agreement), Trend.of(correct)
    if (
        not coherence.rises
        or coherence.last - coherence.first < _COHERENCE_RISE
        or correctness.rises
    ):
        return None
    return Finding(
        name="coherence_without_correctness",
        title="Arms agree more, but are not more often right",
        evidence=f"Agreement went from {coherence.first:.2f} to {coherence.last:.2f}, the share correct "
        f"from {correctness.first:.2f} to {correctness.last:.2f}.",
        change=f"reward.coherence_weight ({config.reward.coherence_weight:g}) down"
        + (
            '; reward.credit to "per_arm", which pays no agreement on wrong answers.'
            if config.reward.credit == "shared"
            else "."
        ),
    )


def _past_its_best(run: RunRecord, config: TrainConfig) -> Finding | None:
    """By two standard errors of a difference of two shares."""
    accuracy, best_step = run.series("eval/accuracy"), run.series("eval/best_step")
    if not accuracy:
        return None
    best, last = max(accuracy), accuracy[-1]
    middle = (best + last) / 2
    error = math.sqrt(2 * middle * (1 - middle) / config.run.num_evaluation_questions)
    if best - last <= 2 * error:
        return None
    return Finding(
        name="past_its_best",
        title="The best version is not the last",
        evidence=f"Held-out accuracy was {best:.1%} at step {best_step[-1]:.0f} and ended at {last:.1%}.",
        change="Serve the adapter that checkpoints/best.json names; "
        f'ppo.learning_rate_schedule ({config.ppo.learning_rate_schedule}) to "linear", or fewer '
        f"run.num_steps ({config.run.num_steps}).",
    )


def _reward_without_accuracy(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Of a run that does not help."""
    rewards = run.series("reward/mean")
    if run.compared is None or not rewards:
        return None
    start, trained = run.compared
    trend = Trend.of(rewards)
    if not trend.rises or trend.last - trend.first < _REWARD_RISE:
        return None
    points = 100 * (trained.accuracy.value - start.accuracy.value)
    parts = {
        name: Trend.of(values)
        for name in ("base", "coherence", "length")
        if (values := run.series(f"reward/{name}"))
    }
    most = max(parts, key=lambda name: parts[name].last - parts[name].first, default=None)
    where = "" if most is None else f", most of it in its {most} part"
    return Finding(
        name="reward_without_accuracy",
        title="The reward rises, but accuracy does not",
        evidence=f"The reward went from {trend.first:+.2f} to {trend.last:+.2f}{where}; held-out accuracy by "
        f"{signed(points)} points.",
        change=f"reward.coherence_weight ({config.reward.coherence_weight:g}) down if coherence is what rose; "
        f"more data.num_questions ({config.data.num_questions}) if it is overfitting; ppo.kl_coef "
        f"({config.ppo.kl_coef:g}) up.",
    )


def _unmoved(run: RunRecord, config: TrainConfig) -> Finding | None:
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


_RULES: tuple[Callable[[RunRecord, TrainConfig], Finding | None], ...] = (
    _reward_ignores_correctness,
    _golds_do_not_fit,
    _mismatch,
    _kl_blow_up,
    _steps_too_large,
    _stale,
    _entropy,
    _truncation,
    _coherence_without_correctness,
    _past_its_best,
    _zero_variance,
    _critic,
)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"
