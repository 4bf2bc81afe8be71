"""The training loop: ask, score, journal, learn, publish, and again."""

from dataclasses import dataclass
from pathlib import Path

import torch
from anyio.from_thread import start_blocking_portal

from inference_server.schemas import adapter_name
from trainer.checkpoint import Progress, checkpoint_folders, save_checkpoint, step_of
from trainer.client import ArmsClient
from trainer.config import RunConfig, TrainConfig
from trainer.contamination import data_lines
from trainer.data import load_records
from trainer.device import compute_device
from trainer.diagnostics import logprob_mismatches
from trainer.errors import NonFiniteError, ServerError
from trainer.failed_step import failed_step_is_kept
from trainer.held_out import HeldOutEvaluations
from trainer.journal import Journal, JournaledStep
from trainer.learner import Learner
from trainer.pipeline import RolloutPipeline, open_pipeline
from trainer.policy import PolicyRoles
from trainer.publish import Published, Publisher
from trainer.questions import QuestionState, QuestionStream
from trainer.resume import complete_metrics, evaluate_again, restore, serve_again
from trainer.rollout_metrics import rollout_metrics
from trainer.rollouts import RolloutBatch
from trainer.run_folder import ADAPTERS_FOLDER, is_finished, keep_start, open_run, start_of
from trainer.server_check import check_server
from trainer.serving import Serving
from trainer.stop_signals import Stopped, StopRequest, stop_signals
from trainer.sync import SyncCheck
from trainer.timing import StepClock
from trainer.tracking import Tracker
from trainer.word_problems import Split

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


def train(config: TrainConfig, *, must_resume: bool = False) -> TrainResult:
    """Train online until ``run.num_steps`` are done or a signal asks to stop.

    A run that was begun in ``run.folder`` goes on where it was, however it ended. SIGTERM and Ctrl-C
    finish the step that is being learned, but wait for no rollouts; they write a checkpoint and return.

    Args:
        config: The whole run.
        must_resume: A new run is an error.

    Returns:
        What the run came to.

    Raises:
        UsageError: The server does not fit the run, or the folder holds another.
        SyncError: The server serves something else than was pushed.
        ServerError: The server stayed away for longer than ``server.give_up_after_s``.
        CheckpointError: No checkpoint can be resumed from.
        JournalError: A step that has to be done again is damaged.
        NonFiniteError: A number is NaN or infinite; what the step was given is kept.
        Stopped: A signal asked to stop before the run was where it had been.
    """
    if config.run.num_threads is not None:
        torch.set_num_threads(config.run.num_threads)
    torch.manual_seed(config.run.seed)
    with open_run(config, must_resume=must_resume) as journal, stop_signals() as stop:
        if is_finished(config):
            (*_, newest) = journal.past.adapters
            return TrainResult(
                step=newest.step,
                stopped=False,
                adapter=config.run.folder / ADAPTERS_FOLDER / adapter_name(newest.version),
            )
        return _train(config, journal, stop)


def _train(config: TrainConfig, journal: Journal, stop: StopRequest) -> TrainResult:
    run = config.run
    records = load_records(
        config.data.source,
        Split.TRAIN,
        num_records=config.data.num_questions,
        seed=config.data.seed,
    )
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(ArmsClient(config.server)) as client,
    ):
        with stop.waiting():
            status = portal.call(client.status)
        check_server(status, config)
        roles = PolicyRoles(
            start_of(config),
            device=compute_device(run.device),
            serve_dtype=getattr(torch, status.base_dtype),
        )
        learner = Learner(config, roles)
        adapters = run.folder / ADAPTERS_FOLDER
        serving = Serving(client, adapters, status, give_up_after_s=config.server.give_up_after_s)
        publisher = Publisher(adapters, journal, serving, portal)
        sync = SyncCheck(
            serving, portal, config, question=records[0].question, server_dtype=status.base_dtype
        )
        if not checkpoint_folders(run.folder):
            keep_start(run.folder, roles)
            start = Progress(step=0, questions=QuestionState())
            save_checkpoint(run.folder, start, roles, learner.update, num_kept=run.num_checkpoints)
        steps_done = max(journal.past.last_step, step_of(checkpoint_folders(run.folder)[-1]))
        with (
            Tracker(run, first_step=steps_done) as tracker,
            HeldOutEvaluations(serving, portal, config, tracker.say) as evaluations,
        ):
            data = config.data
            for line in data_lines(
                data.source, records, data.evaluation_source, evaluations.records
            ):
                tracker.say(line)
            restored = restore(config, journal, learner, tracker.say)
            with stop.waiting():
                progress, published = serve_again(restored, learner, publisher, sync, tracker.say)
            complete_metrics(restored, published, tracker)
            evaluate_again(progress.step, publisher, evaluations, tracker)
            questions = QuestionStream(
                records,
                seed=config.data.seed,
                rest_after=config.data.curriculum,
                state=progress.questions,
            )
            with open_pipeline(
                serving, portal, questions, config.rollout, config.reward
            ) as pipeline:
                training = _Training(
                    run=run,
                    journal=journal,
                    stop=stop,
                    learner=learner,
                    publisher=publisher,
                    sync=sync,
                    tracker=tracker,
                    evaluations=evaluations,
                    questions=questions,
                    pipeline=pipeline,
                    progress=progress,
                    published=published,
                )
                return training.go_on()


@dataclass(kw_only=True)
class _Training:
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
    progress: Progress
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
        self.progress = Progress(step=step, questions=self.questions.state)
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
