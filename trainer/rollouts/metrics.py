"""Metrics of a step's rollouts: rewards, scores, lengths, and correctness by arm."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from inference_server.wire.schemas import FinishReason
from trainer.config.rollout import short_name
from trainer.io.metrics_file import Metrics
from trainer.rollouts.groups import RolloutBatch, ScoredGroup, ServedGroup

_T = TypeVar("_T")
_SCORES = ("s_end", "s_path", "s_cf", "s_wm", "within_family_agreement", "cross_family_agreement")
_NO_VARIANCE = 1e-9
"""Sums of squares below this are rounding errors."""


def rollout_metrics(batch: RolloutBatch) -> Metrics:
    """`group_metrics` of a batch, and metrics of its generation."""
    asked = [*batch.groups, *batch.replaced]
    num_generated = sum(len(arm.token_ids) for group in asked for arm in group.group.arms)
    return {
        **group_metrics(batch.groups, asked),
        "rollout/num_dropped_groups": batch.num_dropped_groups,
        "rollout/num_replaced_groups": len(batch.replaced),
        "rollout/tokens_per_s": num_generated / batch.generate_s,
        **{f"servers/groups/{name}": count for name, count in _by_server(asked).items()},
    }


def _by_server(asked: Sequence[ScoredGroup]) -> Counter[str]:
    """How many groups each of several servers made, by host and port; empty if there is only one server."""
    served = [scored.group for scored in asked if isinstance(scored.group, ServedGroup)]
    return Counter(sorted(urlsplit(group.server).netloc for group in served))


def group_metrics(groups: Sequence[ScoredGroup], asked: Sequence[ScoredGroup]) -> Metrics:
    """Metrics under ``reward/``, ``rollout/``, ``scores/``, ``arm/`` and ``arm_correct/`` names.

    ``reward/base``, ``reward/coherence`` and ``reward/length`` sum to ``reward/mean`` if Regime W is the only one
    of ``reward.functions``; with other functions, ``reward_function/NAME`` is the mean of what each gave, unweighted.
    Those are left out if no completion has a reward.

    Args:
        groups: The groups that train; most metrics are computed over these.
        asked: All requested groups; ``reward/correct``, the shares of groups that teach nothing, and the metrics of
            `_solved_metrics` and `_pair_metrics` are computed over these.
    """
    arms = [arm for group in groups for arm in group.group.arms]
    rewards = [reward for group in groups for reward in group.earned]
    parts = [part for group in groups for part in _rewarded(group, group.parts)]
    correct = [c for group in asked for c in group.scores.correct or ()]
    answers = [answer for group in groups for answer in group.scores.answers]
    lengths = [len(arm.token_ids) for arm in arms]
    num_truncated = sum(arm.finish_reason is FinishReason.LENGTH for arm in arms)
    metrics: Metrics = {
        "reward/correct": sum(correct) / max(1, len(correct)),
        "reward/answered": sum(answer is not None for answer in answers) / len(answers),
        "rollout/num_samples": len(arms),
        "rollout/num_trained_samples": sum(len(group.trained) for group in groups),
        "rollout/completion_tokens": sum(lengths),
        "rollout/completion_tokens_mean": sum(lengths) / len(lengths),
        "rollout/truncated": num_truncated / len(arms),
        "rollout/zero_variance_groups": sum(g.zero_variance for g in asked) / len(asked),
    }
    if rewards:
        metrics |= {
            "reward/mean": statistics.fmean(rewards),
            "reward/std": statistics.pstdev(rewards),
            "reward/base": statistics.fmean(part.base for part in parts),
            "reward/coherence": statistics.fmean(part.coherence for part in parts),
            "reward/length": statistics.fmean(part.length for part in parts),
        }
    metrics |= _solved_metrics(asked) | _pair_metrics(asked) | _score_metrics(groups)
    for name in {name: None for group in groups for name in group.by_function}:
        given = [r for g in groups for r in g.by_function.get(name, ()) if r is not None]
        if given:
            metrics[f"reward_function/{short_name(name)}"] = statistics.fmean(given)
    by_arm: dict[str, list[float]] = {}
    correct_by_arm: dict[str, list[bool]] = {}
    for group in groups:
        for index, arm in enumerate(group.group.arms):
            if index not in group.unrewarded:
                by_arm.setdefault(arm.arm, []).append(group.rewards[index])
            if group.scores.correct is not None:
                correct_by_arm.setdefault(arm.arm, []).append(group.scores.correct[index])
    for name, rewards_of_arm in sorted(by_arm.items()):
        metrics[f"arm/{name}"] = statistics.fmean(rewards_of_arm)
    for name, correct_of_arm in sorted(correct_by_arm.items()):
        metrics[f"arm_correct/{name}"] = statistics.fmean(correct_of_arm)
    if (follows := _correlation(groups)) is not None:
        metrics["reward/follows_correct"] = follows
    return metrics


def _solved_metrics(asked: Sequence[ScoredGroup]) -> Metrics:
    """The shares of groups with any, all or no completions right."""
    judged = [group.scores.correct for group in asked if group.scores.correct]
    if not judged:
        return {}
    return {
        "reward/any_correct": sum(map(any, judged)) / len(judged),
        "rollout/all_correct_groups": sum(map(all, judged)) / len(judged),
        "rollout/all_wrong_groups": sum(not any(correct) for correct in judged) / len(judged),
    }


def _score_metrics(groups: Sequence[ScoredGroup]) -> Metrics:
    """The mean scores, numbers of correct paths, and CHSH values of the groups that have them."""
    metrics: Metrics = {}
    for name in _SCORES:
        present = [s for g in groups if (s := getattr(g.scores, name)) is not None]
        if present:
            metrics[f"scores/{name}"] = statistics.fmean(present)
    if ways := [w for g in groups if (w := g.scores.num_correct_paths) is not None]:
        metrics["scores/correct_paths"] = statistics.fmean(ways)
    if chsh := [g.scores.chsh for g in groups if g.scores.chsh is not None]:
        metrics["scores/chsh_max"] = statistics.fmean(map(max, chsh))
        metrics["scores/chsh_min"] = statistics.fmean(map(min, chsh))
    return metrics


def _pair_metrics(asked: Sequence[ScoredGroup]) -> Metrics:
    """The share of completions that are right on a question and its counterfactual; each pair counts once."""
    both = [
        here and there
        for group in asked
        if group.paired and group.scores.correct and group.record.counterfactual_of
        for here, there in zip(group.scores.correct, group.paired.correct, strict=True)
    ]
    return {"scores/correct_on_both": sum(both) / len(both)} if both else {}


def _correlation(groups: Sequence[ScoredGroup]) -> float | None:
    """Pearson's correlation of reward and correctness; None if either is constant.

    It is taken within groups, because the update compares completions of one question, not easy questions with
    hard ones. If all completions of each group earn the same, as under shared credit, it is taken between
    groups. Completions without a reward do not train, and do not count in either case.
    """
    judged = [
        (group.earned, _rewarded(group, group.scores.correct))
        for group in groups
        if group.scores.correct and group.earned
    ]
    rewards = [reward for of_group, _ in judged for reward in _centred(of_group)]
    correct = [right for _, of_group in judged for right in _centred(of_group)]
    if _sum_of_squares(rewards) < _NO_VARIANCE:
        rewards = _centred([statistics.fmean(of_group) for of_group, _ in judged])
        correct = _centred([statistics.fmean(of_group) for _, of_group in judged])
    if min(_sum_of_squares(rewards), _sum_of_squares(correct)) < _NO_VARIANCE:
        return None
    return statistics.correlation(rewards, correct)


def _rewarded(group: ScoredGroup, values: Sequence[_T]) -> list[_T]:
    """The values of the completions that have a reward."""
    return [value for index, value in enumerate(values) if index not in group.unrewarded]


def _sum_of_squares(values: Sequence[float]) -> float:
    return sum(value * value for value in values)


def _centred(values: Sequence[float]) -> list[float]:
    """The values minus their mean."""
    mean = statistics.fmean(values) if values else 0.0
    return [value - mean for value in values]
