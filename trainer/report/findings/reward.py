"""Findings about the reward: does it mean what it should, and what does its rise mean?"""

import statistics

from trainer.config.sections import TrainConfig
from trainer.evaluation.statistics import Trend
from trainer.evaluation.tables import signed
from trainer.report.findings.finding import Finding
from trainer.report.run_record import RunRecord

_FOLLOWS = 0.3
"""A reward of correctness plus coherence correlates with correctness by 0.98 and more within groups, and
one that groups share by 0.7 and more between them (benchmarks/README.md)."""
_GOLD_SHARE = 0.5
"""Of the held-out accuracy that training must reach at least once, if its golds are right."""
_AGREEING = 0.5
"""Share of pairs of arms that agree, above which they know what they answer."""
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
        evidence=f"Reward and correctness correlate by {statistics.fmean(values):+.2f} "
        f"(mean of {len(values)} steps); a reward that pays for right answers comes to 0.7 and more.",
        change=f"reward.correct_bonus ({config.reward.correct_bonus:g}) over reward.wrong_base "
        f"({config.reward.wrong_base:g}), or the code that pays: "
        "python -m regime_w score shows what each rollout earns.",
    )


def golds_do_not_fit(run: RunRecord, config: TrainConfig) -> Finding | None:
    """Training judges wrong what evaluation of the same policy judges right."""
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


def coherence_without_correctness(run: RunRecord, config: TrainConfig) -> Finding | None:
    """A consensus on wrong answers grows."""
    agreement, correct = run.series("scores/s_end"), run.series("reward/correct")
    if not agreement or not correct:
        return None
    coherence, correctness = Trend.of(agreement), Trend.of(correct)
    gain = coherence.last - coherence.first
    if not coherence.rises or gain < _COHERENCE_RISE:
        return None
    # A share correct that rose with it is no lag behind it, however much the questions' luck hides that.
    if correctness.rises or correctness.last - correctness.first >= gain / 2:
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


def reward_without_accuracy(run: RunRecord, config: TrainConfig) -> Finding | None:
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
