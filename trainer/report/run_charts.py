"""A run's metrics as charts: which curves belong together, and how each is read.

Enters: the rows of ``metrics.jsonl``. Leaves: rendered charts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from trainer.report.charts import GRID, RenderedChart, render

_BY_ARM = {
    "arm_correct/": (
        "Accuracy by arm",
        "Share of an arm's completions that are correct.",
        "share correct",
    ),
    "arm/": ("Reward by arm", "Mean over an arm's completions.", "reward"),
}
"""Prefixes of metrics, with one curve an arm."""
_PHASES = ("experience", "update")
"""Phases whose throughput follows from their time; generation's is measured."""
_MARKERS_UP_TO_STEPS = 50
"""A line through one point is invisible; through many, markers hide it."""


@dataclass(frozen=True, kw_only=True)
class _Axis:
    title: str
    curves: Mapping[str, str]
    """Names of metrics to names in the legend."""
    log: bool = False
    limits: tuple[float, float] | None = None
    """What is shown of it; None fits the curves."""


@dataclass(frozen=True, kw_only=True)
class _Chart:
    title: str
    note: str
    left: _Axis
    right: _Axis | None = None
    """Its curves are dashed."""
    stacked: bool = False
    """Whether the curves of the left axis add up."""


_CHARTS = (
    _Chart(
        title="Reward and its parts",
        note="Mean over all completions of a step; base, coherence and length sum to the reward.",
        left=_Axis(
            title="reward",
            curves={
                "reward/mean": "reward",
                "reward/base": "base",
                "reward/coherence": "coherence",
                "reward/length": "length",
            },
        ),
    ),
    _Chart(
        title="Correctness and coherence",
        note="Share of the completions that are correct, and the scores of their groups; agreement that "
        "rises while correctness does not is a consensus on wrong answers.",
        left=_Axis(
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
    _Chart(
        title="Held-out accuracy",
        note="Greedy answers to questions that are never trained on, where the run evaluates itself; "
        "shown at the step in which the evaluation was finished.",
        left=_Axis(
            title="share correct",
            curves={
                "eval/accuracy": "accuracy",
                "eval/best_accuracy": "best so far",
                "eval/low": "95% interval: from",
                "eval/high": "to",
            },
        ),
    ),
    _Chart(
        title="KL to the reference",
        note="How far the policy is from where it started, and the price it pays for that.",
        left=_Axis(title="nats a completion", curves={"ppo/reference_kl": "KL"}),
        right=_Axis(title="coefficient", curves={"ppo/kl_coef": "KL coefficient"}),
    ),
    _Chart(
        title="Entropy",
        note="Falls as the policy grows sure; near zero it has stopped exploring.",
        left=_Axis(title="nats a token", curves={"ppo/entropy": "entropy"}),
    ),
    _Chart(
        title="Size of the update",
        note="Share of tokens whose ratio was clipped, and how far one step moved the policy.",
        left=_Axis(title="share of tokens", curves={"ppo/clip_fraction": "clip fraction"}),
        right=_Axis(title="nats a token", curves={"ppo/approx_kl": "approximate KL"}),
    ),
    _Chart(
        title="Critic",
        note="Explained variance: 1 predicts every return, 0 is no better than their mean; shown down to "
        "-1, where returns hardly vary it falls without end.",
        left=_Axis(
            title="explained variance",
            curves={"ppo/explained_variance": "explained variance"},
            limits=(-1.05, 1.05),
        ),
        right=_Axis(title="value loss", curves={"ppo/value_loss": "value loss"}),
    ),
    _Chart(
        title="Mismatch",
        note="Mean |difference| of trainer's and server's logprobs under one version, over the rollouts "
        "and over the probe of each push: numerics alone.",
        left=_Axis(
            title="nats a token",
            curves={"ppo/logprob_mismatch": "rollouts", "sync/mismatch": "probe"},
            log=True,
        ),
    ),
    _Chart(
        title="Staleness",
        note="How many versions old the rollouts are, and how far a token's logprob moved meanwhile.",
        left=_Axis(title="nats a token", curves={"ppo/logprob_lag": "moved by"}),
        right=_Axis(title="versions", curves={"rollout/lag": "lag"}),
    ),
    _Chart(
        title="Completions",
        note="Mean length, and the share that hit the token limit.",
        left=_Axis(title="tokens", curves={"rollout/completion_tokens_mean": "tokens"}),
        right=_Axis(title="share", curves={"rollout/truncated": "truncated"}),
    ),
    _Chart(
        title="Time by phase",
        note="Generation overlaps the update, so only the wait for it counts.",
        left=_Axis(
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
    _Chart(
        title="Who waits for whom",
        note="Shares of a step; the side that waits less is the bottleneck.",
        left=_Axis(
            title="share of the step",
            curves={
                "time/trainer_wait_share": "trainer waits for rollouts",
                "time/server_idle_share": "server has no rollouts to generate",
            },
        ),
    ),
    _Chart(
        title="Groups that teach nothing",
        note="Share of the groups whose completions all earned the same, and how many were replaced.",
        left=_Axis(title="share of groups", curves={"rollout/zero_variance_groups": "share"}),
        right=_Axis(title="groups", curves={"rollout/num_replaced_groups": "replaced"}),
    ),
    _Chart(
        title="Throughput by phase",
        note="Generated tokens of a step in a second of generating them, of scoring them under the "
        "three roles, and of the update.",
        left=_Axis(
            title="tokens a second",
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
            _figure(chart, rows, names),
            title=chart.title,
            note=chart.note,
            div_id=f"chart-{number}",
        )
        for number, chart in enumerate(charts, 1)
        if any(name in names for axis in (chart.left, chart.right) if axis for name in axis.curves)
    ]


def _throughput(row: Mapping[str, float]) -> dict[str, float]:
    tokens = row.get("rollout/completion_tokens", 0.0)
    return {
        f"time/{phase}_tokens_per_s": tokens / seconds
        for phase in _PHASES
        if tokens and (seconds := row.get(f"time/{phase}_s", 0.0))
    }


def _by_arm(names: set[str]) -> Iterator[_Chart]:
    for prefix, (title, note, axis) in _BY_ARM.items():
        arms = sorted(name for name in names if name.startswith(prefix))
        if arms:
            curves = {name: name.removeprefix(prefix) for name in arms}
            yield _Chart(title=title, note=note, left=_Axis(title=axis, curves=curves))


def _figure(chart: _Chart, rows: Sequence[Mapping[str, float]], names: set[str]) -> go.Figure:
    figure = go.Figure()
    steps = [row["step"] for row in rows]
    mode = "lines+markers" if len(rows) <= _MARKERS_UP_TO_STEPS else "lines"
    for axis, y, dash in ((chart.left, "y", "solid"), (chart.right, "y2", "dash")):
        for metric, label in axis.curves.items() if axis else ():
            if metric in names:
                # A step without the value (it was not finite) leaves a gap.
                figure.add_scatter(
                    x=steps,
                    y=[row.get(metric) for row in rows],
                    name=label,
                    yaxis=y,
                    mode=mode,
                    line={"dash": dash},
                    stackgroup="phases" if chart.stacked else None,
                )
    figure.update_layout(
        hovermode="x unified",
        xaxis={
            "title": {"text": "step", "standoff": 6},
            "automargin": True,
            "gridcolor": GRID,
            "zeroline": False,
        },
        yaxis=_axis_layout(chart.left),
    )
    if chart.right is not None:
        # Two grids would cross; the left one is the chart's.
        figure.update_layout(
            yaxis2=_axis_layout(chart.right)
            | {"overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto"}
        )
    return figure


def _axis_layout(axis: _Axis) -> dict[str, object]:
    return {
        "title": {"text": axis.title},
        "type": "log" if axis.log else "linear",
        "rangemode": "normal" if axis.log else "tozero",
        "range": axis.limits,
        "gridcolor": GRID,
        "zerolinecolor": GRID,
        "automargin": True,
    }
