"""A run's metrics as charts: which curves belong together, and how each is read.

Enters: the rows of ``metrics.jsonl``. Leaves: plotly charts as HTML that needs plotly.js beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from markupsafe import Markup

_ARM_PREFIX = "arm/"
_MARKERS_UP_TO_STEPS = 50
"""A line through one point is invisible; through many, markers hide it."""
_GRID = "rgba(128, 128, 128, 0.25)"


@dataclass(frozen=True, kw_only=True)
class _Axis:
    title: str
    curves: Mapping[str, str]
    """Names of metrics to names in the legend."""
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class _Chart:
    title: str
    note: str
    left: _Axis
    right: _Axis | None = None
    """Its curves are dashed."""
    stacked: bool = False
    """Whether the curves of the left axis add up."""


@dataclass(frozen=True, kw_only=True)
class RenderedChart:
    """A chart for the page."""

    title: str
    note: str
    """One sentence on what to look for."""
    html: Markup


_CHARTS = (
    _Chart(
        title="Reward",
        note="Mean over all completions of a step, and the share of them that are correct.",
        left=_Axis(title="reward", curves={"reward/mean": "reward"}),
        right=_Axis(title="share correct", curves={"reward/correct": "share correct"}),
    ),
    _Chart(
        title="Held-out accuracy",
        note="Greedy answers to questions that are never trained on, where the run evaluates itself; "
        "shown at the step in which the evaluation was finished.",
        left=_Axis(
            title="share correct",
            curves={"eval/accuracy": "accuracy", "eval/best_accuracy": "best so far"},
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
        note="Explained variance: 1 predicts every return, 0 is no better than their mean.",
        left=_Axis(
            title="explained variance", curves={"ppo/explained_variance": "explained variance"}
        ),
        right=_Axis(title="value loss", curves={"ppo/value_loss": "value loss"}),
    ),
    _Chart(
        title="Trainer against server",
        note="Mean |difference| of the two sides' logprobs under one version (numerics, over the "
        "rollouts and over the probe of each push), and of the trained policy's from that version "
        "(version lag).",
        left=_Axis(
            title="nats a token",
            curves={
                "ppo/logprob_mismatch": "same version",
                "sync/mismatch": "probe",
                "ppo/logprob_lag": "version lag",
            },
            log=True,
        ),
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
        title="Throughput",
        note="Tokens that the server generated in a second of generating.",
        left=_Axis(title="tokens a second", curves={"rollout/tokens_per_s": "tokens a second"}),
    ),
)


def render_charts(rows: Sequence[Mapping[str, float]]) -> list[RenderedChart]:
    """The charts that the metrics have data for.

    Args:
        rows: A step each, oldest first; each has ``step``.
    """
    names = {name for row in rows for name in row}
    charts = [_CHARTS[0], *_by_arm(names), *_CHARTS[1:]]
    return [
        RenderedChart(
            title=chart.title,
            note=chart.note,
            # plotly escapes <, > and / in what it embeds; a name cannot end the script.
            html=Markup(
                _figure(chart, rows, names).to_html(
                    full_html=False,
                    include_plotlyjs=False,
                    div_id=f"chart-{number}",
                    default_height="18rem",
                    config={"displaylogo": False},
                )
            ),
        )
        for number, chart in enumerate(charts, 1)
        if any(name in names for axis in (chart.left, chart.right) if axis for name in axis.curves)
    ]


def _by_arm(names: set[str]) -> Iterator[_Chart]:
    arms = sorted(name for name in names if name.startswith(_ARM_PREFIX))
    if arms:
        yield _Chart(
            title="Reward by arm",
            note="Mean over an arm's completions.",
            left=_Axis(
                title="reward", curves={name: name.removeprefix(_ARM_PREFIX) for name in arms}
            ),
        )


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
        template="none",
        # The page's own colours show through, light or dark; its script sets the ink.
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        margin={"l": 60, "r": 60, "t": 40, "b": 45},
        hovermode="x unified",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis={"title": {"text": "step"}, "gridcolor": _GRID, "zeroline": False},
        yaxis=_axis_layout(chart.left),
    )
    if chart.right is not None:
        # Two grids would cross; the left one is the chart's.
        figure.update_layout(
            yaxis2=_axis_layout(chart.right)
            | {"overlaying": "y", "side": "right", "showgrid": False}
        )
    return figure


def _axis_layout(axis: _Axis) -> dict[str, object]:
    return {
        "title": {"text": axis.title},
        "type": "log" if axis.log else "linear",
        "gridcolor": _GRID,
        "zerolinecolor": _GRID,
        "automargin": True,
    }
