"""The charts of a run's metrics: which curves belong together, and how to read each chart.

Enters: the rows of ``metrics.jsonl``. Leaves: rendered charts.
"""

from collections.abc import Iterator, Mapping, Sequence

from trainer.report.charts import RenderedChart, render
from trainer.report.curves import Axis, CurveChart, curve_figure

_BY_ARM = {
    "arm_correct/": (
        "Accuracy by arm",
        "Share of an arm's completions that are correct.",
        "share correct",
    ),
    "arm/": ("Reward by arm", "Mean over an arm's completions.", "reward"),
}
"""Prefixes of metrics, with one curve per arm."""
_PHASES = ("experience", "update")
"""Phases whose throughput is computed from their time; that of generation is measured."""

_CHARTS = (
    CurveChart(
        title="Reward and its parts",
        note="Mean over all completions of a step; base, coherence and length sum to the reward.",
        left=Axis(
            title="reward",
            curves={
                "reward/mean": "reward",
                "reward/base": "base",
                "reward/coherence": "coherence",
                "reward/length": "length",
            },
        ),
    ),
    CurveChart(
        title="Correctness and coherence",
        note="Share of the completions that are correct, and the scores of their groups; if "
        "agreement rises and correctness does not, the arms agree on wrong answers.",
        left=Axis(
            title="share, or score",
            curves={
                "reward/correct": "share correct",
                "scores/s_end": "agreement (s_end)",
                "scores/s_path": "paths (s_path)",
                "scores/s_cf": "cross-check (s_cf)",
                "scores/s_wm": "coherence (s_wm)",
            },
        ),
    ),
    CurveChart(
        title="Held-out accuracy",
        note="Greedy answers to questions that are never trained on, for runs that evaluate "
        "themselves; shown at the step in which the evaluation finished.",
        left=Axis(
            title="share correct",
            curves={
                "eval/accuracy": "accuracy",
                "eval/best_accuracy": "best so far",
                "eval/low": "95% interval, low",
                "eval/high": "95% interval, high",
            },
        ),
    ),
    CurveChart(
        title="KL to the reference",
        note="Distance of the policy from the reference, and the coefficient of the penalty on it.",
        left=Axis(title="nats per completion", curves={"ppo/reference_kl": "KL"}),
        right=Axis(title="coefficient", curves={"ppo/kl_coef": "KL coefficient"}),
    ),
    CurveChart(
        title="Entropy",
        note="Falls as the policy becomes more certain; near zero it no longer explores.",
        left=Axis(title="nats per token", curves={"ppo/entropy": "entropy"}),
    ),
    CurveChart(
        title="Size of the update",
        note="Share of tokens whose ratio was clipped, and how far one step moved the policy.",
        left=Axis(title="share of tokens", curves={"ppo/clip_fraction": "clip fraction"}),
        right=Axis(title="nats per token", curves={"ppo/approx_kl": "approximate KL"}),
    ),
    CurveChart(
        title="Critic",
        note="Explained variance: 1 predicts every return, 0 is no better than their mean. Cut off at "
        "-1: where returns hardly vary it has no lower bound.",
        left=Axis(
            title="explained variance",
            curves={"ppo/explained_variance": "explained variance"},
            limits=(-1.05, 1.05),
        ),
        right=Axis(title="value loss", curves={"ppo/value_loss": "value loss"}),
    ),
    CurveChart(
        title="Mismatch",
        note="Mean |difference| between trainer's and server's logprobs of the same version, over the "
        "rollouts and over the probe of each push: numerical differences only.",
        left=Axis(
            title="nats per token",
            curves={"ppo/logprob_mismatch": "rollouts", "sync/mismatch": "probe"},
            log=True,
        ),
    ),
    CurveChart(
        title="Staleness",
        note="How many versions old the rollouts are, and how far a token's logprob has moved since.",
        left=Axis(title="nats per token", curves={"ppo/logprob_lag": "moved by"}),
        right=Axis(title="versions", curves={"rollout/lag": "lag"}),
    ),
    CurveChart(
        title="Completions",
        note="Mean length, and the share that hit the token limit.",
        left=Axis(title="tokens", curves={"rollout/completion_tokens_mean": "tokens"}),
        right=Axis(title="share", curves={"rollout/truncated": "truncated"}),
    ),
    CurveChart(
        title="Time by phase",
        note="Generation overlaps the update, so only the wait for it counts.",
        left=Axis(
            title="seconds",
            curves={
                "time/wait_s": "wait",
                "time/journal_s": "journal",
                "time/prove_s": "prove",
                "time/experience_s": "experience",
                "time/update_s": "update",
                "time/publish_s": "publish",
            },
        ),
        stacked=True,
    ),
    CurveChart(
        title="Waiting",
        note="Share of a step that each side waits; the side that waits less is the bottleneck.",
        left=Axis(
            title="share of the step",
            curves={
                "time/trainer_wait_share": "trainer waits for rollouts",
                "time/server_idle_share": "server waits for requests",
            },
        ),
    ),
    CurveChart(
        title="Groups without variance",
        note="Share of groups whose completions all have the same reward, and how many were replaced.",
        left=Axis(title="share of groups", curves={"rollout/zero_variance_groups": "share"}),
        right=Axis(title="groups", curves={"rollout/num_replaced_groups": "replaced"}),
    ),
    CurveChart(
        title="Throughput by phase",
        note="Generated tokens of a step per second of generation, of computing logprobs and values "
        "(experience), and of the update.",
        left=Axis(
            title="tokens per second",
            curves={
                "rollout/tokens_per_s": "generate",
                **{f"time/{phase}_tokens_per_s": phase for phase in _PHASES},
            },
        ),
    ),
)


def run_charts(rows: Sequence[Mapping[str, float]]) -> list[RenderedChart]:
    """The charts that the metrics have data for.

    Args:
        rows: A step each, oldest first; each has ``step``.
    """
    rows = [{**row, **_throughput(row)} for row in rows]
    names = {name for row in rows for name in row}
    charts = [*_CHARTS[:2], *_by_arm(names), *_CHARTS[2:]]
    return [
        render(
            curve_figure(chart, rows),
            title=chart.title,
            note=chart.note,
            div_id=f"chart-{number}",
        )
        for number, chart in enumerate(charts, 1)
        if chart.metrics & names
    ]


def _throughput(row: Mapping[str, float]) -> dict[str, float]:
    tokens = row.get("rollout/completion_tokens", 0.0)
    return {
        f"time/{phase}_tokens_per_s": tokens / seconds
        for phase in _PHASES
        if tokens and (seconds := row.get(f"time/{phase}_s", 0.0))
    }


def _by_arm(names: set[str]) -> Iterator[CurveChart]:
    for prefix, (title, note, axis) in _BY_ARM.items():
        arms = sorted(name for name in names if name.startswith(prefix))
        if arms:
            curves = {name: name.removeprefix(prefix) for name in arms}
            yield CurveChart(title=title, note=note, left=Axis(title=axis, curves=curves))
