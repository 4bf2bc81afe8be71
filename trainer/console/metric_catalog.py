"""Every metric of a step, declared once: what it means, and where it is shown.

A row of `METRICS` feeds the step's line on the terminal, the report's charts (`trainer.report.run_charts`
defines them), the help texts of the Prometheus endpoint, and the Grafana dashboard
(``scripts/dashboard_panels.py`` defines its panels, ``scripts/grafana_dashboard.py`` writes it). Keys are those of
``metrics.jsonl``. A metric without a row is written and scraped like any other, but does not appear in the
step's line, the charts or the panels.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_ANY = "*"


@dataclass(frozen=True)
class Metric:
    """One metric, or with a key such as ``arm/*`` one for each arm."""

    key: str
    help: str
    """What it measures, with its unit; also the help text of the Prometheus endpoint."""
    label: str = ""
    """Its name in the legends of charts and panels."""
    chart: str = ""
    """Key of `trainer.report.run_charts.CHARTS`; empty for none."""
    right: bool = False
    """Whether it is drawn over the chart's right axis."""
    panel: str = ""
    """Title of its Grafana panel; empty for none."""
    log: str = ""
    """Its part of the step's line, e.g. ``kl {:.3f}``; empty for none."""
    is_brief: bool = False
    """Whether the step's line has it without ``--verbose`` too; these metrics together fit 80 columns."""

    @property
    def prefix(self) -> str | None:
        """``arm/`` of ``arm/*``; None for a single metric."""
        return self.key.removesuffix(_ANY) if self.key.endswith(_ANY) else None


# A table is read by its columns, so it keeps its own line breaks.
# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("step", "Number of the newest step", panel="Step", label="step"),
    Metric("version", "Version that the newest step pushed", panel="Version, trainer", label="version", log="version {:.0f}"),
    Metric("time", "Time of day at which the line was written, in seconds since 1970 (Unix time)"),
    # Rewards and scores of the rollouts
    Metric("reward/mean", "Mean reward of a completion", "reward", "reward", panel="Reward", log="reward {:+.3f}", is_brief=True),
    Metric("reward/std", "Standard deviation of the rewards", "standard deviation", panel="Reward"),
    Metric("reward/base", "Mean reward for being right or wrong", "base", "reward"),
    Metric("reward/coherence", "Mean reward for coherence with the other arms", "coherence", "reward"),
    Metric("reward/length", "Mean length penalty, at most 0", "length", "reward"),
    Metric("reward/correct", "Share of the completions that are correct", "share correct", "correct", panel="Correct and answered", log="correct {:.1%}", is_brief=True),
    Metric("reward/any_correct", "Share of the groups with a correct completion: pass@k, k being the completions of a group", "groups with a correct arm", "correct", panel="Correct and answered"),
    Metric("reward/answered", "Share of the completions that give an answer", "answered", "correct", panel="Correct and answered"),
    Metric("reward/follows_correct", "Correlation of reward and correctness within groups"),
    Metric("reward_function/*", "Mean reward that this function of reward.functions gave, before its weight is applied", chart="reward", panel="Reward"),
    Metric("scores/s_end", "Agreement of the answers of a group, 0 to 1", "agreement (s_end)", "correct", panel="Scores"),
    Metric("scores/s_path", "Soundness of the equations of a group, 0 to 1", "paths (s_path)", "correct", panel="Scores"),
    Metric("scores/s_cf", "Cross-check of the families of a group, 0 to 1", "cross-check (s_cf)", "correct", panel="Scores"),
    Metric("scores/s_wm", "Coherence of a group: weighted mean of the three scores, 0 to 1", "coherence (s_wm)", "correct", panel="Scores"),
    Metric("scores/correct_paths", "Different ways to the answer in a group: sets of results of true equations among its correct completions"),
    Metric("scores/correct_on_both", "Share of the completions that are right both on a question and on its counterfactual (data.counterfactual), of all pairs that were asked"),
    Metric("scores/within_family_agreement", "Share of pairs of arms of one family that agree"),
    Metric("scores/cross_family_agreement", "Share of pairs of arms of two families that agree"),
    Metric("scores/chsh_max", "Mean over groups of the largest CHSH value; never rewarded"),
    Metric("scores/chsh_min", "Mean over groups of the smallest CHSH value; never rewarded"),
    Metric("arm/*", "Mean reward of this arm's completions", chart="arm", panel="Reward by arm"),
    Metric("arm_correct/*", "Share of this arm's completions that are correct", chart="arm_correct"),
    Metric("eval/accuracy", "Greedy accuracy on held-out questions", "held-out accuracy", "eval", panel="Correct and answered"),
    Metric("eval/best_accuracy", "Best accuracy of the run so far", "best so far", "eval"),
    Metric("eval/low", "Lower end of the accuracy's 95% interval"),
    Metric("eval/high", "Upper end of the accuracy's 95% interval"),
    Metric("eval/num_questions", "Held-out questions that were asked"),
    Metric("eval/step", "Step whose version was evaluated"),
    Metric("eval/version", "Version that was evaluated"),
    Metric("eval/best_step", "Step of the best accuracy so far"),
    # The update
    Metric("ppo/reference_kl", "KL to the reference, nats per completion", "KL", "kl", panel="KL to the reference", log="kl {:.3f}", is_brief=True),
    Metric("ppo/kl_coef", "Coefficient of the KL penalty", "KL coefficient", "kl", True, panel="KL coefficient"),
    Metric("ppo/clip_fraction", "Share of tokens whose ratio was clipped", "clip fraction", "update", panel="Clipping and truncation", log="clip {:.1%}", is_brief=True),
    Metric("ppo/approx_kl", "KL from the version that generated, nats per token", "approximate KL", "update", True, panel="Movement in a step"),
    Metric("ppo/approx_kl_max", "KL of the mini-batch where it was largest, nats per token", "largest of a mini-batch", "update", True, panel="Movement in a step"),
    Metric("ppo/explained_variance", "Share of the returns' variance that the critic explains", "explained variance", "critic", panel="Critic", log="ev {:+.2f}", is_brief=True),
    Metric("ppo/value_loss", "Loss of the critic", "value loss", "critic", True, panel="Critic"),
    Metric("ppo/entropy", "Entropy of the policy, nats per token", "entropy", "entropy", panel="Entropy", log="entropy {:.3f}"),
    Metric("ppo/logprob_mismatch", "Mean |trainer - server| logprob under one version, nats per token", "rollouts, same version", "mismatch", panel="Mismatch of logprobs", log="mismatch {:.1e}"),
    Metric("ppo/logprob_mismatch_max", "Largest |trainer - server| logprob under one version, nats"),
    Metric("ppo/logprob_lag", "Mean |current - proximal| logprob before the update, nats per token", "moved by the version lag", "staleness", panel="Mismatch of logprobs"),
    Metric("ppo/policy_loss", "Loss of the policy"),
    Metric("ppo/dual_clip_fraction", "Share of tokens whose loss the dual clip bounds"),
    Metric("ppo/value_clip_fraction", "Share of tokens whose value was clipped"),
    Metric("ppo/advantage_mean", "Mean advantage of a token"),
    Metric("ppo/advantage_std", "Standard deviation of the advantages"),
    Metric("ppo/value_mean", "Mean value that the critic predicts"),
    Metric("ppo/return_mean", "Mean return of a token"),
    Metric("ppo/importance_weight_mean", "Mean truncated importance weight, proximal over behaviour"),
    Metric("ppo/effective_sample_size", "Effective sample size of the importance weights, share of the tokens", "effective sample size", "mismatch", True),
    Metric("ppo/sequence_masked", "Share of completions that ppo.sequence_mask left out"),
    Metric("ppo/policy_grad_norm", "Norm of the policy's gradient before clipping", "policy", "gradients"),
    Metric("ppo/critic_grad_norm", "Norm of the critic's gradient before clipping", "critic", "gradients"),
    Metric("ppo/learning_rate", "Learning rate of the policy after warm-up and schedule", "learning rate", "gradients", True),
    Metric("ppo/num_optimizer_steps", "Mini-batches that were applied"),
    Metric("ppo/skipped_updates", "Mini-batches without an advantage, in which the policy stayed as it was"),
    Metric("ppo/stopped_early", "1 if ppo.stop_kl ended the step early"),
    Metric("ppo/policy_frozen", "1 in the critic's warm-up steps, and in a step without any reward"),
    Metric("sync/mismatch", "Mean |trainer - server| logprob of the completions that prove a push, nats per token", "weight-sync check", "mismatch"),
    Metric("sync/mismatch_max", "Largest |trainer - server| logprob of the completions that prove a push, nats"),
    Metric("sync/noise", "Typical |trainer - server| of a logit in the same completions; the few tokens at the edge of a nucleus do not count"),
    Metric("sync/worst_z", "How much better (as a z) the best alternative, such as the version before, fits the server's logprobs than what was pushed; only in steps that compute alternatives. The run stops from about 5.3 on"),
    Metric("sync/unprovable", "Alternatives that cannot be ruled out, because what was pushed does not fit the server's logprobs clearly better"),
    Metric("sync/version", "Version that was proven"),
    # Rollouts
    Metric("servers/groups/*", "Groups of the step that this server made, if there are several servers", panel="Groups by server"),
    Metric("servers/up", "How many servers are asked, if there are several", "asked", panel="Servers asked"),
    Metric("servers/left", "How often a server has left since the trainer's start, if there are several", "times one has left", panel="Servers asked"),
    Metric("servers/asked_again", "Requests that were late and were sent to a second server too, since the trainer's start", "requests asked again", panel="Servers asked"),
    Metric("rollout/lag", "How many versions old the rollouts are", "lag", "staleness", True, panel="Staleness", log="lag {:.0f}"),
    Metric("rollout/completion_tokens_mean", "Mean tokens of a completion", "tokens", "completions", panel="Length of completions", log="tokens {:.0f}"),
    Metric("rollout/truncated", "Share of completions that hit the token limit", "truncated", "completions", True, panel="Clipping and truncation", log="truncated {:.1%}"),
    Metric("rollout/zero_variance_groups", "Share of groups whose completions all earned the same", "all arms earned the same", "equal", panel="Groups that teach nothing"),
    Metric("rollout/all_correct_groups", "Share of groups whose completions are all right: their questions are too easy", "all arms right", "equal", panel="Groups that teach nothing"),
    Metric("rollout/all_wrong_groups", "Share of groups whose completions are all wrong: their questions are too hard", "all arms wrong", "equal", panel="Groups that teach nothing"),
    Metric("rollout/num_dropped_groups", "Groups that the server lost or aborted, and that were requested again", "lost and requested again", "equal", True, panel="Groups lost or replaced"),
    Metric("rollout/num_replaced_groups", "Groups that dynamic sampling replaced", "replaced", "equal", True, panel="Groups lost or replaced"),
    Metric("rollout/num_samples", "Completions of the step"),
    Metric("rollout/num_trained_samples", "Completions that train"),
    Metric("rollout/completion_tokens", "Tokens of the completions"),
    # Time
    Metric("rollout/tokens_per_s", "Generated tokens per second, as the trainer sees it", "generate", "throughput", panel="Generation"),
    Metric("time/experience_tokens_per_s", "Scored tokens per second; worked out by the report", "logprobs and values", "throughput"),
    Metric("time/update_tokens_per_s", "Tokens of the update per second; worked out by the report", "update", "throughput"),
    Metric("time/step_s", "Seconds of the whole step", "step", panel="A step's time"),
    Metric("time/wait_s", "Seconds of waiting for rollouts", "wait for rollouts", "time", panel="A step's time"),
    Metric("time/journal_s", "Seconds of writing the journal", "write to disk", "time"),
    Metric("time/prove_s", "Seconds of the weight-sync check", "weight-sync check", "time"),
    Metric("time/experience_s", "Seconds of scoring under the three roles", "logprobs and values", "time", panel="A step's time"),
    Metric("time/update_s", "Seconds of the update", "update", "time", panel="A step's time"),
    Metric("time/publish_s", "Seconds of the push", "push adapter", "time", panel="A step's time"),
    Metric("time/generate_s", "Seconds of generating the step's rollouts", "generate", panel="A step's time"),
    Metric("time/score_s", "Seconds of scoring the groups"),
    Metric("time/trainer_wait_share", "Share of the step in which the trainer waited for rollouts", "trainer waits for rollouts", "waiting", panel="Waiting"),
    Metric("time/server_idle_share", "Share of the step in which the server had nothing to generate", "server waits for requests", "waiting", panel="Waiting"),
)
# fmt: on
"""Every metric, in the order of the step's line, the legends and the panels' queries."""


SFT_METRICS: Mapping[str, str] = {
    "loss": "Training loss, nats per token of the solutions: the mean over the steps since the line of the loss before, or since the checkpoint that it resumed from",
    "mean_token_accuracy": "Share of the solutions' tokens that are the model's likeliest ones, over the same steps",
    "entropy": "Entropy of the model at the solutions' tokens, nats per token, over the same steps",
    "grad_norm": "Norm of the step's gradient before it is clipped to 1",
    "learning_rate": "Learning rate of the step",
    "time/step_s": "Seconds of a step: the mean over the steps since the line before, or since the start",
    "eval_loss": "Loss of the held-out solutions, nats per token",
    "eval_mean_token_accuracy": "mean_token_accuracy of the held-out solutions",
    "eval_entropy": "entropy of the held-out solutions",
}
"""What the lines of an SFT's ``metrics.jsonl`` have, by TRL's names but for the time, and what it means."""


def help_text(key: str) -> str:
    """The help text of a metric for the Prometheus endpoint; for an undeclared metric it only has the key."""
    for metric in METRICS:
        if metric.key == key or (metric.prefix and key.startswith(metric.prefix)):
            return f"{metric.help} (of the newest step)"
    return f"Of the newest step: {key}"


def log_line(row: Mapping[str, float], *, verbose: bool) -> str:
    """The step's metrics for its line: those that are declared with a format and are in the row.

    Args:
        row: The step's metrics.
        verbose: All of them instead of the brief ones.
    """
    return " ".join(
        metric.log.format(row[metric.key])
        for metric in METRICS
        if metric.log
        # A metric that has no value, such as the critic's if there is no critic, is NaN or missing.
        and not math.isnan(row.get(metric.key, math.nan))
        and (verbose or metric.is_brief)
    )


def curves(chart: str, keys: Iterable[str], *, right: bool = False) -> dict[str, str]:
    """The metrics that a chart shows on one of its axes: their keys to their labels.

    Args:
        chart: Key of the chart.
        keys: Keys of the metrics that the run has; others are left out.
        right: Whether it is the right axis instead of the left one.
    """
    present = sorted(keys)
    found: dict[str, str] = {}
    for metric in METRICS:
        if metric.chart == chart and metric.right == right:
            if metric.prefix is not None:
                found |= {
                    key: key.removeprefix(metric.prefix)
                    for key in present
                    if key.startswith(metric.prefix)
                }
            elif metric.key in present:
                found[metric.key] = metric.label
    return found
