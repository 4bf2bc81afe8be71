"""The training loop: ask, score, journal, learn, publish, and again."""

from dataclasses import dataclass
from pathlib import Path

import torch
from anyio.from_thread import start_blocking_portal

from inference_server.schemas import adapter_name
from trainer.checkpoint import Progress, checkpoint_folders, save_checkpoint, step_of
from trainer.client import ArmsClient
from trainer.config import TrainConfig
from trainer.data import load_records
from trainer.device import compute_device
from trainer.diagnostics import logprob_mismatches
from trainer.held_out import HeldOutEvaluations
from trainer.journal import Journal, JournaledStep
from trainer.learner import Learner
from trainer.pipeline import open_pipeline
from trainer.policy import PolicyRoles
from trainer.publish import Publisher
from trainer.questions import QuestionState, QuestionStream
from trainer.resume import complete_metrics, evaluate_again, restore, serve_again
from trainer.rollout_metrics import rollout_metrics
from trainer.run_folder import ADAPTERS_FOLDER, is_finished, keep_start, open_run, start_of
from trainer.server_check import check_server
from trainer.stop_signals import StopRequest, stop_signals
from trainer.sync import SyncCheck
from trainer.timing import StepClock
from trainer.tracking import Tracker
from trainer.word_problems import Split


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
    finish the step, write a checkpoint and return.

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
        status = portal.call(client.status)
        check_server(status, config)
        roles = PolicyRoles(
            start_of(config),
            device=compute_device(run.device),
            serve_dtype=getattr(torch, status.base_dtype),
        )
        learner = Learner(config, roles)
        publisher = Publisher(run.folder / ADAPTERS_FOLDER, journal, client, portal)
        sync = SyncCheck(
            client, portal, config, question=records[0].question, server_dtype=status.base_dtype
        )
        if not checkpoint_folders(run.folder):
            keep_start(run.folder, roles)
            start = Progress(step=0, questions=QuestionState())
            save_checkpoint(run.folder, start, roles, learner.update, num_kept=run.num_checkpoints)
        steps_done = max(journal.past.last_step, step_of(checkpoint_folders(run.folder)[-1]))
        with (
            Tracker(run, first_step=steps_done) as tracker,
            HeldOutEvaluations(client, portal, config, tracker.say) as evaluations,
        ):

            def retain() -> None:
                kept = progress.questions.versions | evaluations.versions
                publisher.retain(run.num_adapters, kept)

            def save() -> None:
                tracker.flush()
                save_checkpoint(
                    run.folder,
                    progress,
                    roles,
                    learner.update,
                    served={v: publisher.weights_of(v) for v in progress.questions.versions},
                    num_kept=run.num_checkpoints,
                    evaluating=evaluations.evaluating,
                )

            restored = restore(config, journal.past, learner, tracker.say)
            progress, published = serve_again(restored, learner, publisher, sync, tracker.say)
            complete_metrics(restored, published, tracker)
            evaluate_again(progress.step, publisher, evaluations, tracker)
            retain()
            questions = QuestionStream(
                records,
                seed=config.data.seed,
                rest_after=config.data.curriculum,
                state=progress.questions,
            )

            with open_pipeline(
                client, portal, questions, config.rollout, config.reward
            ) as pipeline:
                while progress.step < run.num_steps and not stop.requested:
                    clock = StepClock(pipeline.server_busy)
                    step = progress.step + 1
                    is_last = step == run.num_steps

                    pipeline.ask(published.version, num_needed=run.num_steps - progress.step)
                    batch = pipeline.next_batch()
                    clock.lap("wait")
                    sync.require(batch.version, roles)
                    clock.lap("prove")

                    groups = [group.samples for group in batch.groups]
                    mini_batches = learner.experience(
                        step, groups, publisher.weights_of(batch.version)
                    )
                    mismatch = float(logprob_mismatches(mini_batches).mean())
                    sync.require_rollouts(batch.version, mismatch)
                    clock.lap("experience")

                    # From here on the step happens, whatever happens to this process.
                    entry = JournaledStep(
                        step=step,
                        version=batch.version,
                        learning_rate_scale=learner.learning_rate_scale(step),
                        num_threads=torch.get_num_threads(),
                        cursor=questions.state.cursor,
                        pending=questions.state.pending,
                        solved=batch.solved,
                        metrics={
                            "rollout/lag": progress.step - publisher.step_of(batch.version),
                            **rollout_metrics(batch),
                            "time/generate_s": batch.generate_s,
                            "time/score_s": batch.score_s,
                        },
                    )
                    journal.write_step(batch.groups, entry)
                    clock.lap("journal")

                    ppo = learner.learn(
                        step, mini_batches, learning_rate_scale=entry.learning_rate_scale
                    )
                    clock.lap("update")

                    # While this step trained, the server answered the probe of the version before.
                    sync.require(published.version, roles)
                    clock.lap("prove")
                    published = publisher.publish(step, roles)
                    sync.start(published)
                    clock.lap("publish")

                    if evaluations.is_due(step):
                        evaluations.start(step, published)
                    progress = Progress(step=step, questions=questions.state)
                    metrics = {
                        "version": published.version,
                        **entry.metrics,
                        **ppo.to_json(),
                        **sync.metrics,
                        **evaluations.collect(wait=is_last),
                        **clock.to_json(),
                    }
                    tracker.step(step, metrics)
                    retain()
                    is_due = step % run.checkpoint_every == 0 or evaluations.is_due(step)
                    if is_due and not is_last:
                        save()
                if not stop.requested:
                    evaluations.collect(wait=True)
                sync.require(published.version, roles)
                # The last one is what says that a run is finished.
                if step_of(checkpoint_folders(run.folder)[-1]) < progress.step:
                    save()
                if progress.step < run.num_steps:
                    tracker.say(f"stopped at step {progress.step}; the same command goes on there")
            return TrainResult(
                step=progress.step,
                stopped=progress.step < run.num_steps,
                adapter=published.folder,
            )
