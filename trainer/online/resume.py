"""Resumes a run, whatever ended it: loads the newest checkpoint, recomputes later steps, restores served versions.

A new run resumes from its checkpoint of step 0 in the same way.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inference_server.wire.schemas import adapter_name
from trainer.config.sections import TrainConfig
from trainer.console.run_output import RunOutput
from trainer.errors import JournalError, NonFiniteError
from trainer.io.metrics_file import Metrics
from trainer.io.run_layout import (
    ADAPTERS_FOLDER,
    JOURNAL_FILE,
    checkpoint_folders,
    step_of,
    version_folders,
)
from trainer.online.loop import TrainResult
from trainer.online.periodic_eval import HeldOutEvaluations
from trainer.online.versions import Versions
from trainer.online.weight_sync.proofs import Proofs
from trainer.ppo.learner import Learner
from trainer.rollouts.curriculum import Curriculum
from trainer.rollouts.questions import QuestionState
from trainer.run_state.best import skip_damaged_best
from trainer.run_state.checkpoint import TrainProgress, load_checkpoint
from trainer.run_state.journal import Journal
from trainer.run_state.journal_reader import JournalReader
from trainer.run_state.recompute import recompute


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A run as it was when it ended."""

    progress: TrainProgress
    rows: dict[int, Metrics]
    """Metrics of the steps that were recomputed."""


def finished_result(run_folder: Path, journal: JournalReader) -> TrainResult:
    """The result of a run that has nothing left to do."""
    step = step_of(checkpoint_folders(run_folder)[-1])
    numbers = [*version_folders(run_folder), *(entry.version for entry in journal.adapters)]
    adapter = run_folder / ADAPTERS_FOLDER / adapter_name(max(numbers, default=0))
    return TrainResult(step=step, stopped=False, adapter=adapter)


def restore(
    config: TrainConfig,
    newest: Path,
    journal: Journal,
    learner: Learner,
    say: Callable[[str], None],
) -> Restored:
    """Load the newest undamaged checkpoint and recompute the journal's steps after it; skip a damaged best.json.

    Args:
        config: The run's configuration.
        newest: The folder of that checkpoint.
        journal: The run's journal; its last step is removed if that step produces NaN or infinity.
        learner: Is put into the restored state.
        say: Gets a line for each recomputed step, and for each damaged file.

    Raises:
        CheckpointError: The checkpoint belongs to another base model or adapter shape.
        JournalError: The rollouts of a step are missing or damaged; the message says how to go on without it.
        NonFiniteError: A step produces NaN or infinity.
    """
    skip_damaged_best(config.run.folder, say)
    checkpoint = load_checkpoint(newest, learner.roles, learner.update)
    progress = checkpoint.progress
    curriculum = Curriculum(config.data.curriculum, progress.questions.streaks)
    rows: dict[int, Metrics] = {}
    past = journal.past
    if past.damaged_lines:
        lines = ", ".join(str(number) for number in past.damaged_lines)
        say(f"{config.run.folder / JOURNAL_FILE} is damaged in line {lines}; replay stops there")
    try:
        for done in recompute(past, learner, checkpoint, last_step=past.last_step):
            entry = done.entry
            curriculum.record(entry.solved)
            questions = QuestionState(
                cursor=entry.cursor, pending=entry.pending, streaks=dict(curriculum.streaks)
            )
            progress = TrainProgress(step=entry.step, questions=questions)
            rows[entry.step] = done.metrics
            changed = [adapter for adapter, sha256 in done.adapters if adapter.sha256 != sha256]
            say(
                f"step {entry.step:>4} recomputed from the journal"
                + "".join(f"; version {a.version} differs when recomputed here" for a in changed)
            )
    except JournalError as error:
        raise JournalError(error.step, f"{error.what}; {_how_to_go_on(past, error.step)}") from None
    except NonFiniteError as error:
        step = progress.step + 1
        if step != past.last_step:
            raise NonFiniteError(f"step {step}, recomputed: {error.what}") from error
        # The run was killed before it met this error itself.
        journal.take_back(step)
        raise NonFiniteError(f"step {step}: {error.what}", may_pass=True) from error
    return Restored(progress=progress, rows=rows)


def _how_to_go_on(past: JournalReader, step: int) -> str:
    path = shlex.quote(str(past.run_folder / JOURNAL_FILE))
    later = f"steps {step} to {past.last_step}" if past.last_step > step else f"step {step}"
    return (
        f"put a copy back, or give up {later} by `truncate -s {past.num_bytes_before(step)} {path}`: the next start "
        f"then goes on from step {step - 1}"
    )


def restore_versions(
    progress: TrainProgress,
    learner: Learner,
    versions: Versions,
    proofs: Proofs,
    say: Callable[[str], None],
) -> TrainProgress:
    """Make the server hold, under their old numbers, the versions whose rollouts are still to come.

    Each older version that is pushed again is proven here; the newest is proven later by its own rollouts.

    Args:
        progress: The restored run's progress.
        learner: Holds the newest policy.
        versions: The run's versions.
        proofs: Prove the versions that are pushed again.
        say: Gets a line for each version that cannot be served again, and one for the newest.

    Returns:
        The progress; if a version cannot be served again, its questions go to the newest version.
    """
    questions = progress.questions
    for version in sorted(questions.versions):
        if version == versions.adapters.version_of(progress.step):
            continue
        served = versions.push_again(version)
        if served is None:
            say(f"version {version} cannot be served again; its questions go to the newest")
            questions = questions.without_version(version)
        else:
            proofs.prove(served)
    versions.publish(progress.step, learner.roles, token_budget=learner.token_budget)
    say(f"serving version {versions.newest.version} at step {progress.step}")
    return TrainProgress(step=progress.step, questions=questions)


def complete_metrics(restored: Restored, version: int, output: RunOutput) -> None:
    """Write the metrics lines missing after a crash.

    Args:
        restored: Has the metrics of the recomputed steps.
        version: The version as which the last of these steps is published.
        output: Knows which lines were written, and writes the missing ones.
    """
    for step, row in restored.rows.items():
        if step == restored.progress.step:
            row = {**row, "version": version}
        if step > output.last_step:
            output.record(step, row)


def restart_evaluation(
    step: int, versions: Versions, evaluations: HeldOutEvaluations, output: RunOutput
) -> None:
    """Start the evaluation of the run's beginning, or the one that was pending when the run ended.

    It is skipped if its version cannot be served any more.
    """
    for due in evaluations.owed(step, output.last_evaluated_step):
        version = versions.adapters.version_of(due)
        served = None if version is None else versions.push_again(version)
        if served is not None:
            evaluations.start(due, served)
            return
