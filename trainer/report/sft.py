"""An SFT as the page shows it: where it stands, first and last values, curves of the losses.

Input: the folder of an SFT. Output: an `SFTRecord`, and what the page takes from it.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from trainer.config.sections import SFTRunConfig
from trainer.console.progress import duration
from trainer.errors import UsageError
from trainer.evaluation.tables import TextTable
from trainer.io.kept_settings import CONFIG_FILE, read_kept
from trainer.io.locks import is_locked_folder
from trainer.io.metrics_file import METRICS_FILE, Metrics, read_metrics
from trainer.io.run_layout import is_finished_sft, newest_sft_checkpoint, step_of
from trainer.report.charts import RenderedChart, render
from trainer.report.curves import Axis, CurveChart, curve_figure

SFT_KIND = "Supervised fine-tuning"

_TIME_LEFT_OVER = 20
"""How many of the newest lines the time left is worked out from."""
_NATS = "nats per token"

_CHARTS = {
    "loss": CurveChart(
        title="Loss",
        note="Of the tokens of the solutions. The training loss is a mean over the steps since the point before, or since the checkpoint after a resume; if "
        "the held-out loss rises while it falls, the demonstrations are learned by heart.",
        left=Axis(title=_NATS, curves={"loss": "training", "eval_loss": "held out"}),
        connects_gaps=True,
    ),
    "rate": CurveChart(
        title="Learning rate and gradient norm",
        note="The norm is that of one step, before it is clipped to 1.",
        left=Axis(title="learning rate", curves={"learning_rate": "learning rate"}),
        right=Axis(title="norm", curves={"grad_norm": "gradient norm"}),
        connects_gaps=True,
    ),
    "tokens": CurveChart(
        title="Token accuracy and entropy",
        note="Share of the solutions' tokens that are the model's likeliest ones, and how uncertain it is of them.",
        left=Axis(
            title="share of tokens",
            is_share=True,
            curves={"mean_token_accuracy": "accuracy", "eval_mean_token_accuracy": "held out"},
        ),
        right=Axis(title=_NATS, curves={"entropy": "entropy", "eval_entropy": "entropy, held out"}),
        connects_gaps=True,
    ),
}
_TABLE = {
    "loss": ("training loss, nats per token", "{:.4f}"),
    "eval_loss": ("held-out loss, nats per token", "{:.4f}"),
    "mean_token_accuracy": ("token accuracy", "{:.1%}"),
    "eval_mean_token_accuracy": ("held-out token accuracy", "{:.1%}"),
    "entropy": ("entropy, nats per token", "{:.3g}"),
    "grad_norm": ("gradient norm", "{:.3g}"),
    "learning_rate": ("learning rate", "{:.3g}"),
}
"""Rows of the table: metrics to their names and formats."""


@dataclass(frozen=True, kw_only=True)
class SFTRecord:
    """What an SFT has recorded so far."""

    folder: Path
    rows: list[Metrics]
    """What was measured at each step, oldest first; step 0 has the held-out loss before the first step."""
    config_text: str
    """Content of ``config.toml``."""
    config: SFTRunConfig | None
    """The parsed configuration; None if this version of the program cannot read it."""

    @property
    def is_finished(self) -> bool:
        """Whether the adapter is complete."""
        return is_finished_sft(self.folder)

    @property
    def num_steps(self) -> int | None:
        """How many steps it has in all; None if that is not known, as of one that an older version has begun."""
        return (
            int(self.rows[-1]["num_steps"]) if self.rows and "num_steps" in self.rows[-1] else None
        )

    @property
    def step(self) -> int:
        """The newest step that is known to be done; a line is written every few steps."""
        if self.is_finished and self.num_steps is not None:
            return self.num_steps
        # Its lines may be lost, or older than its checkpoint.
        newest = newest_sft_checkpoint(self.folder)
        steps = [int(row["step"]) for row in self.rows[-1:]]
        step = max([*steps, 0 if newest is None else step_of(newest)])
        return step if self.num_steps is None else min(step, self.num_steps)

    @property
    def has_trained(self) -> bool:
        """Whether a step is done, although its losses may be missing."""
        return self.is_finished or self.step > 0


def read_sft(folder: Path, *, with_steps: bool) -> SFTRecord:
    """Read what an SFT has recorded so far.

    Args:
        folder: The SFT's folder, whose settings are those of an SFT.
        with_steps: Whether there must be a loss already.

    Raises:
        UsageError: There is no loss yet although ``with_steps`` is set.
        DataError: A line of the metrics is damaged.
    """
    by_step: dict[float, Metrics] = {}
    # Training and held-out loss of a step have lines of their own.
    for row in read_metrics(folder):
        by_step[row["step"]] = by_step.get(row["step"], {}) | row
    path = folder / CONFIG_FILE
    try:
        kept = read_kept(path)
    except UsageError:
        kept = None
    sft = SFTRecord(
        folder=folder,
        rows=[by_step[step] for step in sorted(by_step)],
        config_text=path.read_text("utf-8-sig"),
        config=kept if isinstance(kept, SFTRunConfig) else None,
    )
    if with_steps and not sft.rows:
        file = folder / METRICS_FILE
        if sft.has_trained:
            raise UsageError(
                f"{file}: the losses of this SFT are missing; restore the file from a copy"
            )
        raise UsageError(f"no losses in {file}; name an SFT with at least one finished step")
    return sft


def sft_progress(sft: SFTRecord, *, live: bool) -> Iterator[str]:
    """Where an SFT stands, in short phrases.

    Args:
        sft: The SFT.
        live: Whether the page is of now, so that it can say how long the SFT will take.
    """
    step, num_steps = sft.step, sft.num_steps
    is_running = is_locked_folder(sft.folder)
    if not sft.has_trained:
        yield "no step finished yet"
    elif step:
        yield f"step {step}" if num_steps is None else f"step {step} of {num_steps}"
    if sft.has_trained and not sft.rows:
        yield "its losses are missing"
    if is_running:
        yield "running"
    else:
        yield "finished" if sft.is_finished else "not running, stopped before its last step"
    if (step_s := _step_s(sft.rows)) is not None:
        yield f"{step_s:.2g} s a step"
        if live and is_running and num_steps is not None and step < num_steps:
            yield f"about {duration(step_s * (num_steps - step))} left"
    if sft.rows and "time" in sft.rows[-1]:
        ended = datetime.fromtimestamp(sft.rows[-1]["time"], UTC)
        yield f"newest line written {ended:%Y-%m-%d %H:%M} UTC"


def _step_s(rows: list[Metrics]) -> float | None:
    """Seconds of a step lately; None if lines lack it, as those of an older version."""
    seconds = [row["time/step_s"] for row in rows if "time/step_s" in row]
    return statistics.median(seconds[-_TIME_LEFT_OVER:]) if seconds else None


def sft_setup(sft: SFTRecord) -> list[str]:
    """Which model the SFT trains, on what, and how fast."""
    config = sft.config
    if config is None:
        return []
    start = config.starting_adapter
    return [
        f"base {config.policy.base_model}",
        *([] if start is None else [f"from {start}"]),
        f"questions {config.data.source}",
        f"learning rate {config.sft.learning_rate:g}",
    ]


def sft_summary(sft: SFTRecord) -> TextTable | None:
    """The first and the last value of each metric; None without metrics."""
    rows = []
    for metric, (name, shown) in _TABLE.items():
        values = [row[metric] for row in sft.rows if metric in row]
        if values:
            rows.append((name, shown.format(values[0]), shown.format(values[-1])))
    if not rows:
        return None
    caption = "First and last values"
    return TextTable(caption=caption, headings=("Metric", "First", "Last"), rows=tuple(rows))


def sft_charts(sft: SFTRecord) -> list[RenderedChart]:
    """The charts that the metrics have data for."""
    measured = {name for row in sft.rows for name in row}
    rendered = []
    for name, chart in _CHARTS.items():
        if chart.right is not None and not measured & chart.right.curves.keys():
            chart = replace(chart, right=None)
        if not measured & chart.metrics:
            continue
        rendered.append(
            render(
                curve_figure(chart, sft.rows),
                title=chart.title,
                note=chart.note,
                div_id=f"chart-sft-{name}",
            )
        )
    return rendered
