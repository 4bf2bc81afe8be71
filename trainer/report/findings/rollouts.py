"""Findings about what there is to learn from, and what came of it."""

import math
import statistics

from trainer.config.sections import TrainConfig
from trainer.report.findings.finding import Finding, number
from trainer.report.run_record import RunRecord

_TRUNCATED = 0.1
_ZERO_VARIANCE = 0.5
_SOLVED = 0.7
"""Share correct above which groups without variance are solved ones rather than hopeless ones."""
_EXPLAINED = 0.1


def truncation(run: RunRecord, config: TrainConfig) -> Finding | None:
    """The token limit ends completions."""
    share = run.last_quarter("rollout/truncated")
    if share is None or share <= _TRUNCATED:
        return None
    tokens = run.last_quarter("rollout/completion_tokens_mean")
    return Finding(
        name="truncation",
        title="Completions are cut off",
        evidence=f"{share:.0%} hit the token limit; the mean is {number(tokens)} tokens of "
        f"{config.rollout.max_tokens}.",
        change=f"rollout.max_tokens ({config.rollout.max_tokens}) up; ppo.truncation "
        f'({config.ppo.truncation}) to "mask" leaves them out of the losses.',
    )


def zero_variance(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Groups in which no completion is better than another."""
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


def critic(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Values that predict nothing."""
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


def past_its_best(run: RunRecord, config: TrainConfig) -> Finding | None:
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
