"""What a step's rollouts say about the policy, as numbers for the log."""

import statistics

from inference_server.schemas import FinishReason
from trainer.rollouts import RolloutBatch
from trainer.tracking import Metrics

_SCORES = ("s_end", "s_path", "s_cf", "s_wm", "within_family_agreement", "cross_family_agreement")


def rollout_metrics(batch: RolloutBatch) -> Metrics:
    """Metrics under ``reward/``, ``rollout/``, ``scores/`` and ``arm/`` names.

    ``reward/correct`` and ``rollout/zero_variance_groups`` are over every group that was asked for;
    all else is over the groups that train.
    """
    asked = [*batch.groups, *batch.replaced]
    arms = [arm for group in batch.groups for arm in group.group.arms]
    rewards = [reward for group in batch.groups for reward in group.rewards]
    correct = [c for group in asked for c in group.scores.correct or ()]
    answers = [answer for group in batch.groups for answer in group.scores.answers]
    lengths = [len(arm.token_ids) for arm in arms]
    num_generated = sum(len(arm.token_ids) for group in asked for arm in group.group.arms)
    num_truncated = sum(arm.finish_reason is FinishReason.LENGTH for arm in arms)
    metrics: Metrics = {
        "reward/mean": statistics.fmean(rewards),
        "reward/std": statistics.pstdev(rewards),
        "reward/correct": sum(correct) / max(1, len(correct)),
        "reward/answered": sum(answer is not None for answer in answers) / len(answers),
        "rollout/num_samples": len(arms),
        "rollout/num_trained_samples": len(batch.samples),
        "rollout/num_dropped_groups": batch.num_dropped_groups,
        "rollout/num_replaced_groups": len(batch.replaced),
        "rollout/completion_tokens": sum(lengths),
        "rollout/completion_tokens_mean": sum(lengths) / len(lengths),
        "rollout/truncated": num_truncated / len(arms),
        "rollout/zero_variance_groups": sum(g.zero_variance for g in asked) / len(asked),
        "rollout/tokens_per_s": num_generated / batch.generate_s,
    }
    for name in _SCORES:
        present = [s for g in batch.groups if (s := getattr(g.scores, name)) is not None]
        if present:
            metrics[f"scores/{name}"] = statistics.fmean(present)
    if chsh := [max(g.scores.chsh) for g in batch.groups if g.scores.chsh is not None]:
        metrics["scores/chsh_max"] = statistics.fmean(chsh)
    by_arm: dict[str, list[float]] = {}
    for group in batch.groups:
        for arm, reward in zip(group.group.arms, group.rewards, strict=True):
            by_arm.setdefault(arm.arm, []).append(reward)
    for name, rewards_of_arm in sorted(by_arm.items()):
        metrics[f"arm/{name}"] = statistics.fmean(rewards_of_arm)
    return metrics
