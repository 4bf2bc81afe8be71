"""Findings about the rollouts, the critic, and the run's best version."""

import statistics
from itertools import pairwise

from trainer.config.sections import TrainConfig
from trainer.evaluation.statistics import is_below_best
from trainer.report.findings.finding import Finding, number
from trainer.report.own_evaluations import own_evaluations
from trainer.report.run_record import RunRecord

_TRUNCATED = 0.1
"""Share of truncated completions above which the token limit, and not the policy, decides about many rewards."""
_ZERO_VARIANCE = 0.5
"""Share of groups without variance above which most of what is generated teaches nothing."""
_EXPLAINED = 0.1
"""Explained variance below which the critic's values are hardly better a baseline than the mean return."""


def truncation(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Many completions hit the token limit."""
    share = run.last_quarter("rollout/truncated")
    if share is None or share <= _TRUNCATED:
        return None
    tokens = run.last_quarter("rollout/completion_tokens_mean")
    change = f"raise rollout.max_tokens ({config.rollout.max_tokens})"
    if config.ppo.truncation == "bootstrap":
        change += '; ppo.truncation = "mask" leaves truncated completions out of the losses'
        if config.ppo.advantage == "gae":
            change += ", while bootstrap replaces their reward with what the critic expects"
    return Finding(
        name="truncation",
        title="Completions are truncated",
        evidence=f"{share:.0%} hit the token limit of {config.rollout.max_tokens}; the mean length is "
        f"{number(tokens)} tokens.",
        change=f"{change}.",
    )


def zero_variance(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Most groups give no signal: all their completions have the same reward."""
    share = run.last_quarter("rollout/zero_variance_groups")
    correct = run.last_quarter("reward/correct")
    right = run.last_quarter("rollout/all_correct_groups")
    wrong = run.last_quarter("rollout/all_wrong_groups")
    if share is None or correct is None or right is None or wrong is None:
        return None
    if share <= _ZERO_VARIANCE:
        return None
    solved = right >= wrong
    on = config.rollout.dynamic_sampling
    # Suggested last, because every replaced question costs the generation of another one.
    dynamic_sampling = "" if on else " Or turn on rollout.dynamic_sampling, which generates more."
    return Finding(
        name="zero_variance",
        title=f"Most groups are {'solved' if solved else 'too hard'}: their completions all get the same reward",
        evidence=f"This holds for {share:.0%} of the groups: {right:.0%} of all groups are right in every arm, "
        f"{wrong:.0%} wrong in every arm; {correct:.0%} of all completions are correct.",
        change=(
            f"use harder questions in data.source, or set data.curriculum "
            f"({'unset' if config.data.curriculum is None else config.data.curriculum}) to 1."
            if solved
            else f"use easier questions, raise rollout.samples_per_arm ({config.rollout.samples_per_arm}), or "
            "improve the SFT first."
        )
        + dynamic_sampling,
    )


def critic(run: RunRecord, config: TrainConfig) -> Finding | None:
    """The critic's values do not predict the returns."""
    # The median, because explained variance has no lower bound where returns hardly vary.
    values = run.series("ppo/explained_variance")
    if config.ppo.advantage != "gae" or not values:
        return None
    median = statistics.median(values[-max(1, len(values) // 4) :])
    if median >= _EXPLAINED:
        return None
    ppo, evidence = config.ppo, ""
    change = (
        f"raise ppo.critic_learning_rate ({ppo.critic_learning_rate:g}) or ppo.critic_warmup_steps "
        f"({ppo.critic_warmup_steps})"
    )
    means, deviations = run.series("ppo/value_mean"), run.series("reward/std")
    jump = max((abs(b - a) for a, b in pairwise(means)), default=0.0)
    if deviations and jump > statistics.median(deviations):
        # Its steps are too large for what it has to learn; such a critic ends up predicting a constant.
        evidence = (
            f" Its mean value moved by up to {jump:.2f} from one step to the next, more than the rewards' "
            f"standard deviation of {statistics.median(deviations):.2f}."
        )
        change = f"lower ppo.critic_learning_rate ({ppo.critic_learning_rate:g})"
    return Finding(
        name="critic",
        title="The critic predicts nothing",
        evidence=f"Its explained variance is {median:+.2f} lately; 1 is perfect, 0 is no better than predicting "
        f"the mean return.{evidence}",
        change=f'{change}; or set ppo.advantage = "rloo", which needs no critic.',
    )


def past_its_best(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Held-out accuracy fell from its best evaluation by more than chance explains.

    The best was chosen among all evaluations before the last. The test is that of two independent shares. Evaluations
    of the same questions are not independent, and differ less by chance than this test assumes.
    """
    measured = own_evaluations(run.measured)
    # A fall below the run's start is not what an adapter of the run can repair.
    evaluated = [evaluation for evaluation in measured if evaluation.step > 0]
    if not evaluated:
        return None
    last, best = evaluated[-1], max(evaluated, key=lambda evaluation: evaluation.accuracy)
    if not is_below_best(last.counts, best.counts, num_comparisons=len(evaluated) - 1):
        return None
    return Finding(
        name="past_its_best",
        title="The best version is not the last",
        evidence=f"Held-out accuracy was {best.accuracy:.1%} {best.when} and ended at {last.accuracy:.1%}.",
        change="serve the adapter that checkpoints/best.json names; set "
        f'ppo.learning_rate_schedule ({config.ppo.learning_rate_schedule}) to "linear", or lower '
        f"run.num_steps ({config.run.num_steps}).",
    )
