"""A run as one HTML file that needs no network: verdict, evaluation, curves, sample transcripts.

Enters: a run's folder. Leaves: ``report.html`` in it. All text of models and data is escaped.
"""

import base64
import gzip
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from trainer.errors import DataError
from trainer.evaluation.tables import tables_of
from trainer.io.jsonl import read_rows
from trainer.report.evaluation_charts import evaluation_charts
from trainer.report.run_charts import run_charts
from trainer.report.run_record import read_run
from trainer.report.verdict import Verdict, verdict_of
from trainer.rollouts.rows import RolloutCompletion, RolloutRow

REPORT_FILE = "report.html"

_ROLLOUT_FILES = "rollouts/step-*.jsonl"
_QUESTIONS_PER_STEP = 2


class _ArmTranscript(RolloutCompletion):
    answer: str | None
    correct: bool | None


class _GroupTranscript(RolloutRow):
    scores: dict[str, float | None]
    reward: float
    arm_outputs: Sequence[_ArmTranscript]


@dataclass(frozen=True, kw_only=True)
class _StepTranscripts:
    step: int
    groups: tuple[_GroupTranscript, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The file that was written, and its verdict."""

    path: Path
    verdict: Verdict


def write_report(run_folder: Path) -> Report:
    """Write ``report.html`` from what the run has recorded so far.

    Raises:
        UsageError: The folder does not exist or has no metrics yet.
    """
    run = read_run(run_folder)
    verdict = verdict_of(run)
    # Set explicitly: jinja2's select_autoescape does not recognise the suffix .html.j2.
    environment = Environment(
        loader=PackageLoader("trainer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    evaluation = run.evaluation
    html = environment.get_template("report.html.j2").render(
        name=run_folder.resolve().name,
        last=run.rows[-1],
        config=run.config_text,
        verdict=verdict,
        has_evaluation=run.has_evaluation,
        evaluation=evaluation,
        tables=() if evaluation is None else tables_of(evaluation),
        evaluation_charts=() if evaluation is None else evaluation_charts(evaluation),
        charts=run_charts(run.rows),
        steps=_read_transcripts(run_folder),
        plotly_js=Markup(_packed(get_plotlyjs())),
    )
    path = run_folder / REPORT_FILE
    path.write_text(html, encoding="utf-8")
    return Report(path=path, verdict=verdict)


def _packed(text: str) -> str:
    """Gzipped, in base64."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _read_transcripts(run_folder: Path) -> list[_StepTranscripts]:
    """The first questions of the first, the middle and the last step."""
    files = sorted(run_folder.glob(_ROLLOUT_FILES))
    if not files:
        return []
    chosen = dict.fromkeys((0, (len(files) - 1) // 2, len(files) - 1))
    steps = [
        _StepTranscripts(step=int(files[i].stem.rsplit("-", 1)[1]), groups=_read_groups(files[i]))
        for i in chosen
    ]
    return [step for step in steps if step.groups]


def _read_groups(path: Path) -> tuple[_GroupTranscript, ...]:
    """The first groups of a step, up to a row that is truncated or not a rollout."""
    groups = []
    with suppress(DataError):
        for _, group in islice(read_rows(path, _GroupTranscript), _QUESTIONS_PER_STEP):
            groups.append(group)
    return tuple(groups)
