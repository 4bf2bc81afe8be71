"""An evaluation as charts: accuracies with their intervals, pass@k, and coherence against correctness.

Input: an `Evaluation`. Output: rendered charts.
"""

from collections.abc import Iterator, Sequence

import plotly.graph_objects as go

from trainer.evaluation.arms_results import ArmsResult, Estimate
from trainer.evaluation.results import Evaluation
from trainer.report.charts import SHARES, RenderedChart, axis, error_bars, render


def evaluation_charts(evaluation: Evaluation) -> list[RenderedChart]:
    """The chart of greedy accuracy and, if arms were sampled, the charts over the arms."""
    with_arms = [(model.label, model.arms) for model in evaluation.models if model.arms is not None]
    charts = [
        render(
            _accuracies(evaluation),
            title="Accuracy",
            note="Share of the held-out questions answered correctly, with 95% intervals.",
            div_id="chart-accuracy",
        )
    ]
    if with_arms:
        charts += [
            render(
                _pass_at(with_arms),
                title="pass@k",
                note="Probability that at least one of k completions from different arms is correct.",
                div_id="chart-pass-at-k",
            ),
            render(
                _by_arm(with_arms),
                title="Accuracy by arm",
                note="Mean over sampled completions, with 95% intervals.",
                div_id="chart-accuracy-by-arm",
            ),
            render(
                _reliability(with_arms),
                title="Does coherence predict correctness?",
                note="Share of questions whose consensus is correct, by the coherence (s_wm) of their "
                "arms, which is computed without the gold answers; calibrated scores lie on the diagonal.",
                div_id="chart-reliability",
            ),
        ]
    return charts


def _accuracies(evaluation: Evaluation) -> go.Figure:
    figure = go.Figure()
    labels = [model.label for model in evaluation.models]
    series = dict(_measures(evaluation))
    for name, estimates in series.items():
        figure.add_scatter(
            x=[100 * e.value for e in estimates],
            y=labels,
            name=name,
            mode="markers",
            # Lays the markers of a model side by side, not on top of each other.
            orientation="h",
            marker={"size": 9},
            # A marker at 0 is drawn whole.
            cliponaxis=False,
            error_x=_percent_bars(estimates),
        )
    figure.update_layout(
        xaxis=axis("% correct", zeroline=False),
        # The first model is on top, and labels are never read as numbers or dates.
        yaxis=axis(type="category", autorange="reversed", zeroline=False, ticklabelstandoff=8),
        scattermode="group",
    )
    return figure


def _measures(evaluation: Evaluation) -> Iterator[tuple[str, list[Estimate]]]:
    yield "greedy", [model.accuracy for model in evaluation.models]
    arms = [model.arms for model in evaluation.models if model.arms is not None]
    if arms:
        yield "pass@1 over the arms", [result.pass_at[0].chance for result in arms]
        yield f"consensus (maj@{arms[0].num_completions})", [result.consensus for result in arms]


def _pass_at(models: Sequence[tuple[str, ArmsResult]]) -> go.Figure:
    figure = go.Figure()
    for label, arms in models:
        chances = [at.chance for at in arms.pass_at]
        figure.add_scatter(
            x=[at.k for at in arms.pass_at],
            y=[100 * chance.value for chance in chances],
            name=label,
            mode="lines+markers",
            error_y=_percent_bars(chances),
        )
    ks = [at.k for at in models[0][1].pass_at]
    figure.update_layout(
        xaxis=axis("k", type="log", tickvals=ks, zeroline=False),
        yaxis=axis("% correct", zeroline=False),
    )
    return figure


def _by_arm(models: Sequence[tuple[str, ArmsResult]]) -> go.Figure:
    figure = go.Figure()
    for label, arms in models:
        accuracies = [arm.accuracy for arm in arms.by_arm]
        figure.add_scatter(
            x=[arm.arm for arm in arms.by_arm],
            y=[100 * accuracy.value for accuracy in accuracies],
            name=label,
            mode="markers",
            marker={"size": 8},
            error_y=_percent_bars(accuracies),
        )
    figure.update_layout(
        xaxis=axis(type="category", tickangle=-40, zeroline=False),
        yaxis=axis("% correct", zeroline=False),
        scattermode="group",
    )
    return figure


def _reliability(models: Sequence[tuple[str, ArmsResult]]) -> go.Figure:
    figure = go.Figure()
    figure.add_shape(
        type="line",
        x0=0,
        y0=0,
        x1=1,
        y1=1,
        line={"dash": "dot", "width": 1, "color": "rgba(128, 128, 128, 0.8)"},
    )
    for label, arms in models:
        bins = arms.calibration.bins
        figure.add_scatter(
            x=[b.mean_score for b in bins],
            y=[b.share_correct for b in bins],
            name=label,
            mode="lines+markers",
            customdata=[b.num_questions for b in bins],
            hovertemplate="coherence %{x:.2f}: %{y:.1%} of %{customdata} questions",
            error_y=error_bars(
                [b.share_correct for b in bins],
                [b.low for b in bins],
                [b.high for b in bins],
                thickness=1,
            ),
        )
    figure.update_layout(
        xaxis=axis("coherence", range=[-0.02, 1.02], zeroline=False),
        yaxis=axis("share correct", range=[-0.05, 1.05], zeroline=False, **SHARES),
    )
    return figure


def _percent_bars(estimates: Sequence[Estimate]) -> dict[str, object]:
    return error_bars(
        [100 * e.value for e in estimates],
        [100 * e.low for e in estimates],
        [100 * e.high for e in estimates],
    )
