"""Findings about the reward: whether it follows correctness, and what its rise means."""

import statistics

from trainer.config.sections import TrainConfig
from trainer.evaluation.statistics import Trend
from trainer.evaluation.tables import signed
from trainer.report.findings.finding import Finding
from trainer.report.run_record import RunRecord

_FOLLOWS = 0.3
"""Correlation below which the reward does not follow correctness. It is at least 0.98 within groups for
a reward of correctness plus coherence, and at least 0.7 between groups for a reward that groups share
(benchmarks/README.md)."""
_GOLD_SHARE = 0.5
"""Share of the held-out accuracy that at least one training step reaches if the gold answers are right."""
_AGREEING = 0.5
"""Share of agreeing pairs of arms from which on the questions are not too hard for the arms."""
_REWARD_RISE = 0.05
_COHERENCE_RISE = 0.03


def reward_ignores_correctness(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Reward and correctness hardly correlate."""
    values = run.series("reward/follows_correct")
    if not values or statistics.fmean(values) >= _FOLLOWS:
        return None
    return Finding(
        name="reward_ignores_correctness",
        title="The reward does not follow correctness",
        evidence=f"The correlation of reward and correctness is {statistics.fmean(values):+.2f} "
        f"(mean of {len(values)} steps); a reward that pays for correct answers reaches 0.7 or more.",
        change=f"raise reward.correct_bonus ({config.reward.correct_bonus:g}) above reward.wrong_base "
        f"({config.reward.wrong_base:g}), or fix the reward's code: "
        "python -m regime_w score shows the reward of each rollout.",
    )


def golds_do_not_fit(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Training marks answers wrong that an evaluation of the same policy marks correct."""
    correct, agreement = run.series("reward/correct"), run.last_quarter("scores/s_end")
    if run.compared is None or not correct or agreement is None:
        return None
    start, _ = run.compared
    # If the questions are merely too hard, the arms give different wrong answers.
    if max(correct) >= _GOLD_SHARE * start.accuracy.low or agreement < _AGREEING:
        return None
    return Finding(
        name="golds_do_not_fit",
        title="Training marks answers wrong that evaluation marks correct",
        evidence=f"{start.label} answers {start.accuracy.value:.0%} of the held-out questions correctly, but "
        f"no step of training had more than {max(correct):.0%} correct completions, although "
        f"{agreement:.0%} of the pairs of arms agree.",
        change=f"check data.source ({config.data.source}): its gold answers do not fit its questions.",
    )


def coherence_without_correctness(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Agreement rises without correctness: a growing consensus on wrong answers."""
    agreement, correct = run.series("scores/s_end"), run.series("reward/correct")
    if not agreement or not correct:
        return None
    coherence, correctness = Trend.of(agreement), Trend.of(correct)
    gain = coherence.last - coherence.first
    if not coherence.rises or gain < _COHERENCE_RISE:
        return None
    # Correctness keeps up if it rose by at least half as much, even if noise hides its trend.
    if correctness.rises or correctness.last - correctness.first >= gain / 2:
        return None
    return Finding(
        name="coherence_without_correctness",
        title="Arms agree more, but are not correct more often",
        evidence=f"Agreement went from {coherence.first:.2f} to {coherence.last:.2f}, the share correct "
        f"from {correctness.first:.2f} to {correctness.last:.2f}.",
        change=f"lower reward.coherence_weight ({config.reward.coherence_weight:g})"
        + (
            '; set reward.credit to "per_arm", which does not reward agreement on wrong answers.'
            if config.reward.credit == "shared"
            else "."
        ),
    )


def reward_without_accuracy(run: RunRecord, config: TrainConfig) -> Finding | None:
    """The reward rises without accuracy; only looked for if RL does not help."""
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
    where = "" if most is None else f", mostly in its {most} part"
    return Finding(
        name="reward_without_accuracy",
        title="The reward rises, but accuracy does not",
        evidence=f"The reward went from {trend.first:+.2f} to {trend.last:+.2f}{where}; held-out accuracy changed by "
        f"{signed(points)} points.",
        change=f"lower reward.coherence_weight ({config.reward.coherence_weight:g}) if coherence rose; raise "
        f"data.num_questions ({config.data.num_questions}) if the policy overfits; raise ppo.kl_coef "
        f"({config.ppo.kl_coef:g}).",
    )
