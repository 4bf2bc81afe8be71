"""The steps of a run: ask, score, journal, learn, publish, and again.

From a step's line in the journal on the step happens, whatever happens to this process: what was killed
in between is done again from the journal (`trainer.online.resume`).
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.config.sections import RunConfig
from trainer.console.stop_signals import Stopped, StopRequest
from trainer.console.timing import StepClock
from trainer.console.tracking import Tracker
from trainer.errors import NonFiniteError, ServerError
from trainer.online.failed_step import failed_step_is_kept
from trainer.online.periodic_eval import HeldOutEvaluations
from trainer.online.pipeline import RolloutPipeline
from trainer.online.sync_check import SyncCheck
from trainer.online.versions import Published, Publisher
from trainer.ppo.diagnostics import logprob_mismatches
from trainer.ppo.learner import Learner
from trainer.rollouts.groups import RolloutBatch
from trainer.rollouts.metrics import rollout_metrics
from trainer.rollouts.questions import QuestionStream
from trainer.run_state.checkpoint import TrainProgress, checkpoint_folders, save_checkpoint, step_of
from trainer.run_state.journal import Journal
from trainer.run_state.journal_entries import JournaledStep

_FINISH_WITHIN_S = 5.0
"""How long the end of a step may wait for the server once a signal asks to stop; `docker stop` waits 10 s."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to."""

    step: int
    """Steps done."""
    stopped: bool
    """A signal ended it before ``run.num_steps``."""
    adapter: Path
    """Folder of the newest adapter."""


@dataclass(kw_only=True)
class Training:
    """A run that is where it was, and what it goes on with."""

    run: RunConfig
    journal: Journal
    stop: StopRequest
    learner: Learner
    publisher: Publisher
    sync: SyncCheck
    tracker: Tracker
    evaluations: HeldOutEvaluations
    questions: QuestionStream
    pipeline: RolloutPipeline
    progress: TrainProgress
    """What is done and published."""
    published: Published
    """The newest version."""

    def __post_init__(self) -> None:
        self._learned = self.progress.step
        """The step that the weights are of: ahead of ``progress`` until it is published."""

    def go_on(self) -> TrainResult:
        """Do the steps that are left; what ends them early leaves a checkpoint where it can."""
        run = self.run
        self._retain()
        try:
            while self.progress.step < run.num_steps:
                self._step()
            with self.stop.waiting(grace_s=_FINISH_WITHIN_S):
                self.evaluations.collect(wait=True)
                self.sync.require(self.published.version, self.learner.roles)
            # The last one is what says that a run is finished.
            self._save()
        except (Stopped, ServerError, NonFiniteError) as error:
            # A step that is learned but not published has its place in the journal, and is done again
            # from there: these weights are of no checkpoint.
            newest = step_of(checkpoint_folders(run.folder)[-1])
            if newest < self.progress.step == self._learned < run.num_steps:
                self._save()
            if not isinstance(error, Stopped):
                raise
            self.tracker.say(
                f"stopped at step {self.progress.step}; the same command goes on there"
            )
            return self._result(stopped=True)
        return self._result(stopped=False)

    def _step(self) -> None:
        run, learner, sync = self.run, self.learner, self.sync
        clock = StepClock(self.pipeline.server_busy)
        step = self.progress.step + 1
        is_last = step == run.num_steps
        batch = self._next_batch(clock)
        with failed_step_is_kept(run.folder, step, batch.groups, learner.roles):
            mini_batches = learner.experience(
                step,
                [group.samples for group in batch.groups],
                self.publisher.weights_of(batch.version),
            )
        mismatch = float(logprob_mismatches(mini_batches).mean())
        sync.require_rollouts(batch.version, mismatch)
        clock.lap("experience")

        # From here on the step happens, whatever happens to this process.
        entry = self._entry(step, batch)
        self.journal.write_step(batch.groups, entry)
        clock.lap("journal")
        with failed_step_is_kept(run.folder, step, batch.groups, learner.roles, self.journal):
            ppo = learner.learn(step, mini_batches, learning_rate_scale=entry.learning_rate_scale)
        self._learned = step
        clock.lap("update")

        with self.stop.waiting(grace_s=_FINISH_WITHIN_S):
            # While this step trained, the server answered the probe of the version before.
            sync.require(self.published.version, learner.roles)
            clock.lap("prove")
            self.published = self.publisher.publish(step, learner.roles)
            sync.start(self.published)
            clock.lap("publish")
            if self.evaluations.is_due(step):
                self.evaluations.start(step, self.published)
            evaluated = self.evaluations.collect(wait=is_last)
        self.progress = TrainProgress(step=step, questions=self.questions.state)
        metrics = {
            "version": self.published.version,
            **entry.metrics,
            **ppo.to_json(),
            **sync.metrics,
            **evaluated,
            **clock.to_json(),
        }
        self.tracker.step(step, metrics)
        self._retain()
        is_due = step % run.checkpoint_every == 0 or self.evaluations.is_due(step)
        if is_due and not is_last:
            self._save()

    def _next_batch(self, clock: StepClock) -> RolloutBatch:
        """The step's rollouts, of a version that is proven."""
        with self.stop.waiting():
            num_needed = self.run.num_steps - self.progress.step
            self.pipeline.ask(self.published.version, num_needed=num_needed)
            batch = self.pipeline.next_batch()
            clock.lap("wait")
            self.sync.require(batch.version, self.learner.roles)
            clock.lap("prove")
        return batch

    def _entry(self, step: int, batch: RolloutBatch) -> JournaledStep:
        questions = self.questions.state
        return JournaledStep(
            step=step,
            version=batch.version,
            learning_rate_scale=self.learner.learning_rate_scale(step),
            num_threads=torch.get_num_threads(),
            cursor=questions.cursor,
            pending=questions.pending,
            solved=batch.solved,
            metrics={
                "rollout/lag": self.progress.step - self.publisher.step_of(batch.version),
                **rollout_metrics(batch),
                "time/generate_s": batch.generate_s,
                "time/score_s": batch.score_s,
            },
        )

    def _save(self) -> None:
        self.tracker.flush()
        versions = self.progress.questions.versions
        save_checkpoint(
            self.run.folder,
            self.progress,
            self.learner.roles,
            self.learner.update,
            served={version: self.publisher.weights_of(version) for version in versions},
            num_kept=self.run.num_checkpoints,
            evaluating=self.evaluations.evaluating,
        )

    def _retain(self) -> None:
        kept = self.progress.questions.versions | self.evaluations.versions
        self.publisher.retain(self.run.num_adapters, kept)

    def _result(self, *, stopped: bool) -> TrainResult:
        return TrainResult(step=self.progress.step, stopped=stopped, adapter=self.published.folder)
