"""The run's most important metrics as a table of text: at the beginning and lately.

Input: a `RunRecord`. Output: a `TextTable` for the page, which a screen reader, a printed page or a note can hold.
"""

from dataclasses import dataclass

from trainer.evaluation.tables import TextTable
from trainer.report.own_evaluations import own_evaluations
from trainer.report.run_record import RunRecord


@dataclass(frozen=True, kw_only=True)
class _Row:
    metric: str
    name: str
    shown: str
    """Format of a value."""


_FUNCTION = "reward_function/"
"""Prefix of the metrics of the reward functions."""
_ROWS = (
    _Row(metric="reward/mean", name="reward", shown="{:+.3f}"),
    _Row(metric="reward/correct", name="correct completions", shown="{:.1%}"),
    _Row(metric="reward/any_correct", name="groups with a correct arm", shown="{:.1%}"),
    _Row(
        metric="ppo/reference_kl", name="KL to the reference, nats per completion", shown="{:.3g}"
    ),
    _Row(metric="ppo/entropy", name="entropy, nats per token", shown="{:.3g}"),
    _Row(metric="ppo/clip_fraction", name="clipped tokens", shown="{:.1%}"),
    _Row(metric="ppo/explained_variance", name="explained variance of the critic", shown="{:+.2f}"),
    _Row(metric="ppo/logprob_mismatch", name="mismatch, nats per token", shown="{:.2g}"),
    _Row(metric="rollout/lag", name="age of the rollouts, versions", shown="{:.1f}"),
    _Row(metric="rollout/completion_tokens_mean", name="tokens of a completion", shown="{:.1f}"),
    _Row(metric="rollout/truncated", name="truncated completions", shown="{:.1%}"),
    _Row(metric="time/step_s", name="seconds of a step", shown="{:.2f}"),
    _Row(metric="rollout/tokens_per_s", name="generated tokens per second", shown="{:,.0f}"),
    _Row(metric="time/server_idle_share", name="server waits for requests", shown="{:.0%}"),
)


def summary_of(run: RunRecord) -> TextTable | None:
    """The metrics' means over the first and the last quarter of the steps that have them; None without metrics."""
    functions = sorted({key for row in run.rows for key in row if key.startswith(_FUNCTION)})
    of_functions = [
        _Row(metric=key, name=f"reward of {key.removeprefix(_FUNCTION)}", shown="{:+.3f}")
        for key in functions
    ]
    rows = [
        (row.name, row.shown.format(run.first_quarter(row.metric)), row.shown.format(last))
        for row in (_ROWS[0], *of_functions, *_ROWS[1:])
        if (last := run.last_quarter(row.metric)) is not None
    ]
    if len(evaluations := own_evaluations(run.measured)) > 1:
        first, newest = evaluations[0], evaluations[-1]
        accuracies = (
            f"{first.accuracy:.1%} ({first.when})",
            f"{newest.accuracy:.1%} ({newest.when})",
        )
        rows.insert(0, ("held-out accuracy", *accuracies))
    if not rows:
        return None
    return TextTable(
        caption="Means over the first and the last quarter of the steps",
        headings=("Metric", "First", "Last"),
        rows=tuple(rows),
    )


def incidents_of(run: RunRecord) -> list[str]:
    """What went wrong in single steps, in sentences; means over many steps would hide it."""
    num_steps, found = len(run.rows), list[str]()
    dropped = [groups for groups in run.series("rollout/num_dropped_groups") if groups]
    if dropped:
        found.append(
            f"In {len(dropped)} of {num_steps} steps, groups were lost and requested again ({sum(dropped):.0f} in all)."
        )
    if ended := sum(map(bool, run.series("ppo/stopped_early"))):
        found.append(f"ppo.stop_kl ended {ended} of {num_steps} steps early.")
    if left := max(run.series("servers/left"), default=0):
        found.append(f"A server left, up to {left:.0f} times in one start of the trainer.")
    return found
