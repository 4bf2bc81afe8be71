"""A run as one HTML page that needs no network: verdict, evaluation, curves, sample transcripts; an SFT: curves.

Input: the folder of a run or an SFT. Output: ``report.html`` in it, or the text of the page that `trainer.report.watch`
serves. All text from models and data is escaped.
"""

import base64
import gzip
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from rich.console import Console

from trainer.errors import DataError, UsageError
from trainer.evaluation.tables import tables_of
from trainer.io.durable import write_file
from trainer.io.jsonl import read_rows
from trainer.io.kept_settings import command_in
from trainer.io.paths import is_lasting, shown_path
from trainer.io.run_layout import ROLLOUTS_FOLDER, step_of
from trainer.report.evaluation_charts import evaluation_charts
from trainer.report.facts import kind_of, newest_step, progress_of, setup_of, state_of
from trainer.report.run_charts import run_charts
from trainer.report.run_record import RunRecord, read_run
from trainer.report.sft import (
    SFT_KIND,
    SFTRecord,
    read_sft,
    sft_charts,
    sft_progress,
    sft_setup,
    sft_summary,
)
from trainer.report.summary import incidents_of, summary_of
from trainer.report.verdict import Verdict, print_verdict, verdict_of
from trainer.rollouts.rows import RolloutCompletion, RolloutRow

REPORT_FILE = "report.html"

_ROLLOUT_FILES = f"step-{6 * '[0-9]'}.jsonl"
_QUESTIONS_PER_STEP = 2


class _ArmTranscript(RolloutCompletion):
    answer: str | None
    correct: bool | None


class _GroupTranscript(RolloutRow):
    scores: dict[str, float | None]
    arm_outputs: Sequence[_ArmTranscript]

    @property
    def mean_reward(self) -> float | None:
        """The mean over the completions that have a reward; None if none has."""
        earned = [reward for arm in self.arm_outputs if (reward := arm.reward) is not None]
        return statistics.fmean(earned) if earned else None


@dataclass(frozen=True, kw_only=True)
class _StepTranscripts:
    step: int
    groups: tuple[_GroupTranscript, ...]


def report_run(folder: Path, console: Console) -> Path:
    """Print the verdict on what a run has recorded so far, and write ``report.html`` into its folder.

    An SFT has no verdict.

    Raises:
        UsageError: The folder does not exist, has no metrics yet, or cannot be written to. In the last case the
            verdict has been printed already.
    """
    if command_in(folder) == "sft":
        return _write_page(folder, _sft_html(read_sft(folder, with_steps=True)))
    run = read_run(folder)
    verdict = verdict_of(run)
    print_verdict(verdict, console)
    return _write_page(folder, _run_html(run, verdict))


def _write_page(folder: Path, html: str) -> Path:
    path = folder / REPORT_FILE
    try:
        write_file(path, html.encode())
    except OSError as error:
        if not is_lasting(error):
            raise
        raise UsageError(
            f"{shown_path(path)}: {error.strerror}; `watch` shows the page and writes nothing"
        ) from None
    return path


def live_html(folder: Path, state: str) -> str:
    """The page of work in progress: it polls ``/state``, and fetches itself again when the state has changed.

    Args:
        folder: The folder of a run or an SFT; its first step need not be finished.
        state: Identifies what the page shows; the page compares it with what ``/state`` answers.

    Raises:
        UsageError: The folder does not exist.
    """
    if command_in(folder) == "sft":
        return _sft_html(read_sft(folder, with_steps=False), state=state)
    run = read_run(folder, with_steps=False)
    return _run_html(run, verdict_of(run) if run.rows else None, state=state)


def _run_html(run: RunRecord, verdict: Verdict | None, *, state: str | None = None) -> str:
    evaluation = run.evaluation
    return _html(
        run.folder,
        state=state,
        subject="run",
        kind=kind_of(run),
        progress=progress_of(run, live=state is not None),
        setup=setup_of(run),
        summary=summary_of(run),
        incidents=incidents_of(run),
        config=run.config_text,
        verdict=verdict,
        is_empty=verdict is None,
        is_waiting=newest_step(run) == 0,
        is_finished=state_of(run) == "finished",
        has_evaluation=run.has_evaluation,
        evaluation=evaluation,
        left_out=run.left_out,
        unreadable=run.unreadable,
        other_data=run.other_data(),
        tables=() if evaluation is None else tables_of(evaluation),
        evaluation_charts=() if evaluation is None else evaluation_charts(evaluation),
        charts=run_charts(run.rows, run.late_evaluations),
        steps=_read_transcripts(run.folder),
    )


def _sft_html(sft: SFTRecord, *, state: str | None = None) -> str:
    return _html(
        sft.folder,
        state=state,
        subject="SFT",
        kind=SFT_KIND,
        progress=[*sft_progress(sft, live=state is not None)],
        setup=sft_setup(sft),
        summary=sft_summary(sft),
        incidents=(),
        config=sft.config_text,
        verdict=None,
        is_empty=not sft.rows,
        is_waiting=not sft.has_trained,
        is_finished=sft.is_finished,
        has_evaluation=False,
        charts=sft_charts(sft),
        steps=(),
    )


def _html(folder: Path, *, state: str | None, **shown: object) -> str:
    """The page, which needs no network; with a ``state``, the live page, which needs only its server."""
    # Set explicitly: jinja2's select_autoescape does not recognise the suffix .html.j2.
    environment = Environment(
        loader=PackageLoader("trainer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        shown,
        name=folder.resolve().name,
        state=state,
        plotly_js="" if state is not None else Markup(_packed_plotly()),
    )


@cache
def _packed_plotly() -> str:
    """plotly.js, gzipped and encoded in base64."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _read_transcripts(run_folder: Path) -> list[_StepTranscripts]:
    """The first questions of the first, the middle and the last step."""
    files = sorted((run_folder / ROLLOUTS_FOLDER).glob(_ROLLOUT_FILES))
    if not files:
        return []
    chosen = dict.fromkeys((0, (len(files) - 1) // 2, len(files) - 1))
    steps = [
        _StepTranscripts(step=step_of(files[i].with_suffix("")), groups=_read_groups(files[i]))
        for i in chosen
    ]
    return [step for step in steps if step.groups]


def _read_groups(path: Path) -> tuple[_GroupTranscript, ...]:
    """The first groups of a step; reading ends at a row that is truncated or not a rollout."""
    groups = []
    with suppress(DataError):
        for _, group in islice(read_rows(path, _GroupTranscript), _QUESTIONS_PER_STEP):
            groups.append(group)
    return tuple(groups)
