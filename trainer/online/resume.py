"""How a run comes back, whatever ended it: the newest checkpoint, the journal, the served versions.

A new run comes back to step 0 in the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.config.sections import TrainConfig
from trainer.console.tracking import Metrics, Tracker
from trainer.errors import NonFiniteError
from trainer.online.periodic_eval import HeldOutEvaluations
from trainer.online.sync_check import SyncCheck
from trainer.online.versions import Published, Publisher
from trainer.ppo.learner import Learner
from trainer.rollouts.questions import Curriculum, QuestionState
from trainer.run_state.checkpoint import TrainProgress, load_checkpoint, newest_checkpoint
from trainer.run_state.journal import Journal
from trainer.run_state.recompute import recompute


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A run that is where it was."""

    progress: TrainProgress
    rows: dict[int, Metrics]
    """Metrics of the steps that were done again."""


def restore(
    config: TrainConfig, journal: Journal, learner: Learner, say: Callable[[str], None]
) -> Restored:
    """Load the newest whole checkpoint and do the journal's steps after it again.

    Args:
        config: Of the run.
        journal: Of the run; forgets its last step if that turns out not to be finite.
        learner: Gets the state.
        say: Gets a line a step.

    Raises:
        CheckpointError: No checkpoint is whole, or it is of another base model or adapter shape.
        JournalError: What a step trained on is missing or damaged.
        NonFiniteError: A step comes to NaN or infinity.
    """
    folder = newest_checkpoint(config.run.folder, say)
    checkpoint = load_checkpoint(folder, learner.roles, learner.update)
    progress = checkpoint.progress
    curriculum = Curriculum(config.data.curriculum, progress.questions.streaks)
    rows: dict[int, Metrics] = {}
    past = journal.past
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
                f"step {entry.step:>4} again from the journal, not generated anew"
                + "".join(f"; version {a.version} comes out otherwise here" for a in changed)
            )
    except NonFiniteError:
        # The run was killed before it could see that itself.
        if progress.step + 1 == past.last_step:
            journal.take_back(past.last_step)
        raise
    return Restored(progress=progress, rows=rows)


def serve_again(
    restored: Restored,
    learner: Learner,
    publisher: Publisher,
    sync: SyncCheck,
    say: Callable[[str], None],
) -> tuple[TrainProgress, Published]:
    """Make the server hold, under the same numbers, what rollouts are still to come of.

    Each version is proven like any other push.

    Returns:
        The progress, without the versions that cannot be had again; the newest version, whose proof
        is under way.
    """
    progress = restored.progress
    questions = progress.questions
    for version in sorted(questions.versions):
        if version == publisher.version_of(progress.step):
            continue
        served = publisher.serve_again(version)
        if served is None:
            say(f"version {version} cannot be served again; its questions go to the newest")
            questions = questions.without_version(version)
        else:
            sync.start(served)
            sync.require(version, learner.roles)
    published = publisher.publish(progress.step, learner.roles)
    sync.start(published)
    say(f"serving version {published.version} at step {progress.step}")
    return TrainProgress(step=progress.step, questions=questions), published


def complete_metrics(restored: Restored, published: Published, tracker: Tracker) -> None:
    """Write the lines of steps that were done, but whose lines the run did not come to write."""
    for step, row in restored.rows.items():
        if step == restored.progress.step:
            row = {**row, "version": published.version}
        if step > tracker.last_step:
            tracker.record(step, row)


def evaluate_again(
    step: int, publisher: Publisher, evaluations: HeldOutEvaluations, tracker: Tracker
) -> None:
    """Start the evaluation that was under way when the run ended, if its version is still here."""
    due = evaluations.newest_due(step)
    if due is not None and due > tracker.last_evaluated_step:
        version = publisher.version_of(due)
        served = None if version is None else publisher.serve_again(version)
        if served is not None:
            evaluations.start(due, served)
