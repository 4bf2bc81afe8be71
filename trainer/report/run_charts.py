"""The charts of a run's metrics: which charts there are, and how to read each one.

Input: the rows of ``metrics.jsonl``. Output: rendered charts. `trainer.console.metric_catalog` declares
which metric is drawn in which chart.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from trainer.console.metric_catalog import curves
from trainer.io.metrics_file import with_late
from trainer.report.charts import RenderedChart, render
from trainer.report.curves import Axis, CurveChart, curve_figure
from trainer.report.families import by_family, family_means
from trainer.report.thinning import thinned

_MOST_POINTS = 1000
"""Most points of a curve over all steps. More cannot be told apart, and 20,000 in each curve made a page of 27 MB."""
_PHASES = ("experience", "update")
"""Phases whose throughput is computed from their time; the throughput of generation is measured."""
_NOTE_OF_FUNCTIONS = (
    "Mean over the completions of a step that have a reward, which is the weighted sum of what reward.functions gave; "
    "base, coherence and length are the parts of regime_w alone. A curve with a function's name is what that function "
    "gave, before its weight."
)

CHARTS: Mapping[str, CurveChart] = {
    "reward": CurveChart(
        title="Reward and its parts",
        note="Mean over all completions of a step; base, coherence and length sum to the reward.",
        left=Axis(title="reward"),
    ),
    "correct": CurveChart(
        title="Correctness and coherence",
        note="Share of the completions that are correct and that give an answer, share of the groups with a correct "
        "arm (pass@k), and the scores of the groups; if agreement rises and correctness does not, the arms agree on "
        "wrong answers.",
        left=Axis(title="share, or score"),
    ),
    "arm_correct": CurveChart(
        title="Accuracy by arm",
        note="Share of an arm's completions that are correct; for a family, the mean over its arms.",
        left=Axis(title="share correct", is_share=True),
        by_family=True,
    ),
    "arm": CurveChart(
        title="Reward by arm",
        note="Mean over an arm's completions; for a family, the mean over its arms.",
        left=Axis(title="reward"),
        by_family=True,
    ),
    "eval": CurveChart(
        title="Held-out accuracy",
        note="Greedy answers, by the version after a step, to questions that are never trained on, with "
        "95% intervals; measured every run.evaluate_every steps.",
        left=Axis(title="share correct", is_share=True),
        step="eval/step",
        interval=("eval/low", "eval/high"),
    ),
    "kl": CurveChart(
        title="KL to the reference",
        note="Distance of the policy from the reference, and the coefficient of the KL penalty.",
        left=Axis(title="nats per completion"),
        right=Axis(title="coefficient"),
    ),
    "entropy": CurveChart(
        title="Entropy",
        note="Falls as the policy becomes more certain; near zero it no longer explores.",
        left=Axis(title="nats per token"),
    ),
    "update": CurveChart(
        title="Size of the update",
        note="Share of tokens whose ratio was clipped, and how far one step and its largest mini-batch moved the policy.",
        left=Axis(title="share of tokens", is_share=True),
        right=Axis(title="nats per token"),
    ),
    "gradients": CurveChart(
        title="Gradients and learning rate",
        note="Norms of the gradients before they are clipped to ppo.max_grad_norm; the policy's learning rate.",
        left=Axis(title="norm"),
        right=Axis(title="learning rate"),
    ),
    "critic": CurveChart(
        title="Critic",
        note="Explained variance: at 1 the critic predicts every return, at 0 it is no better than their mean. "
        "The axis is cut off at -1, because explained variance has no lower bound where returns hardly vary.",
        left=Axis(title="explained variance", limits=(-1.05, 1.05)),
        right=Axis(title="value loss"),
    ),
    "mismatch": CurveChart(
        title="Mismatch",
        note="Mean |difference| between the trainer's logprobs and those of the server that sampled, over the "
        "rollouts, and over the completions that check each push. Under the same version, it is only numerical. "
        "Effective sample size: the share of the tokens that count after importance weighting.",
        left=Axis(title="nats per token", log=True),
        right=Axis(title="share of the tokens", is_share=True, limits=(0.0, 1.05)),
    ),
    "staleness": CurveChart(
        title="Staleness",
        note="How many versions old the rollouts are, and how far a token's logprob has moved "
        "since they were sampled.",
        left=Axis(title="nats per token"),
        right=Axis(title="versions"),
    ),
    "completions": CurveChart(
        title="Completions",
        note="Mean length, and the share that hit the token limit.",
        left=Axis(title="tokens"),
        right=Axis(title="share", is_share=True),
    ),
    "time": CurveChart(
        title="Time by phase",
        note="Generation counts only while the trainer waits for it.",
        left=Axis(title="seconds"),
        stacked=True,
    ),
    "waiting": CurveChart(
        title="Waiting",
        note="Share of a step in which each side waits; the side that waits less is the bottleneck.",
        left=Axis(title="share of the step", is_share=True),
    ),
    "equal": CurveChart(
        title="Groups without variance",
        note="Share of groups whose completions all have the same reward, so that nothing is learnt from them; "
        "shares of groups in which every arm is right, and in which every arm is wrong; and how many groups "
        "were replaced, or were lost and requested again.",
        left=Axis(title="share of groups", is_share=True),
        right=Axis(title="groups"),
    ),
    "throughput": CurveChart(
        title="Throughput by phase",
        note="Generated tokens of a step per second of generation, of computing logprobs and "
        "values, and of the update.",
        left=Axis(title="tokens per second"),
    ),
}
"""The charts in the order of the page, without their curves; `Metric.chart` in the catalog refers to their keys."""


def run_charts(
    rows: Sequence[Mapping[str, float]], late_evaluations: Sequence[Mapping[str, float]]
) -> list[RenderedChart]:
    """The charts that the metrics have data for.

    Args:
        rows: One row per step, oldest first; each has ``step``.
        late_evaluations: Evaluations that no row of a step has, oldest first.
    """
    points: list[Mapping[str, float]] = [
        {**row, **_throughput(row), **family_means(row)} for row in thinned(rows, _MOST_POINTS)
    ]
    measured = with_late(points, late_evaluations)
    keys = {key for row in measured for key in row}
    has_functions = any(key.startswith("reward_function/") for key in keys)
    always_zero = {key for key in keys if not any(row.get(key) for row in measured)}
    rendered = []
    for name in CHARTS:
        chart, drawn_rows = _with_curves(name, keys), points
        if not chart.metrics:
            continue
        if name == "reward" and has_functions:
            chart = replace(chart, note=_NOTE_OF_FUNCTIONS)
        if chart.step != "step":
            # Held-out accuracy and its interval are drawn as measured, not averaged.
            drawn_rows = with_late(rows, late_evaluations)
        elif len(points) < len(rows):
            num_steps = math.ceil(len(rows) / len(points))
            note = f"{chart.note} A point is the mean of up to {num_steps} steps."
            chart = replace(chart, note=note)
        rendered.append(_rendered(name, chart, drawn_rows, always_zero))
    return rendered


def _rendered(
    name: str, chart: CurveChart, rows: Sequence[Mapping[str, float]], always_zero: Set[str]
) -> RenderedChart:
    """Draw a chart. The note names the curves that are 0 in every step, which would lie on the chart's edge.

    A chart whose curves are all 0 is drawn whole.
    """
    labels = {**chart.left.curves, **(chart.right.curves if chart.right else {})}
    left_out = [label for key, label in labels.items() if key in always_zero]
    if 0 < len(left_out) < len(labels):
        left = replace(chart.left, curves=_without(chart.left.curves, always_zero))
        right = chart.right and replace(
            chart.right, curves=_without(chart.right.curves, always_zero)
        )
        right = right if right and right.curves else None
        note = f"{chart.note} 0 in every step: {', '.join(left_out)}."
        chart = replace(chart, left=left, right=right, note=note)
    return render(
        curve_figure(chart, rows),
        title=chart.title,
        note=chart.note,
        div_id=f"chart-run-{name}",
        on_demand="Show each arm",
    )


def _without(curves: Mapping[str, str], left_out: Set[str]) -> dict[str, str]:
    return {key: label for key, label in curves.items() if key not in left_out}


def _with_curves(name: str, keys: Set[str]) -> CurveChart:
    """The named chart with its curves: one for each of its metrics that the run has."""
    chart = CHARTS[name]
    found = curves(name, keys)
    if chart.by_family:
        families, members = by_family(found)
        return replace(chart, left=replace(chart.left, curves=families), members=members)
    left = replace(chart.left, curves=found)
    if chart.right is None:
        return replace(chart, left=left)
    right = replace(chart.right, curves=curves(name, keys, right=True))
    return replace(chart, left=left, right=right)


def _throughput(row: Mapping[str, float]) -> dict[str, float]:
    tokens = row.get("rollout/completion_tokens", 0.0)
    return {
        f"time/{phase}_tokens_per_s": tokens / seconds
        for phase in _PHASES
        if tokens and (seconds := row.get(f"time/{phase}_s", 0.0))
    }
