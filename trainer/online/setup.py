"""Online PPO: opens what a run needs, brings the run back to where it was, and lets it go on from there."""

import torch
from anyio.from_thread import start_blocking_portal

from inference_server.wire.schemas import adapter_name
from trainer.client.arms_client import ArmsClient
from trainer.client.compatibility import check_server
from trainer.config.sections import TrainConfig
from trainer.console.stop_signals import StopRequest, stop_signals
from trainer.console.tracking import Tracker
from trainer.data.contamination import data_lines
from trainer.data.context_limit import drop_overlong
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.errors import DataError
from trainer.model.device import compute_device
from trainer.model.roles import PolicyRoles
from trainer.online.loop import Training, TrainResult
from trainer.online.periodic_eval import HeldOutEvaluations
from trainer.online.pipeline import open_pipeline
from trainer.online.resume import complete_metrics, evaluate_again, restore, serve_again
from trainer.online.serving import Serving
from trainer.online.sync_check import SyncCheck
from trainer.online.versions import Publisher
from trainer.ppo.learner import Learner
from trainer.rollouts.questions import QuestionState, QuestionStream
from trainer.run_state.checkpoint import TrainProgress, checkpoint_folders, save_checkpoint, step_of
from trainer.run_state.journal import Journal
from trainer.run_state.run_folder import (
    ADAPTERS_FOLDER,
    is_finished,
    keep_start,
    open_run,
    start_of,
)


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
        left_out: list[str] = []
        records = drop_overlong(
            records, config.policy.base_model, config.rollout, status, left_out.append
        )
        if not records:
            raise DataError(f"no question can be asked; {left_out[0]}")
        roles = PolicyRoles(
            start_of(config, run.folder),
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
            start = TrainProgress(step=0, questions=QuestionState())
            save_checkpoint(run.folder, start, roles, learner.update, num_kept=run.num_checkpoints)
        steps_done = max(journal.past.last_step, step_of(checkpoint_folders(run.folder)[-1]))
        with (
            Tracker(run, first_step=steps_done) as tracker,
            HeldOutEvaluations(serving, portal, config, tracker.say) as evaluations,
        ):
            data = config.data
            told = data_lines(data.source, records, data.evaluation_source, evaluations.records)
            for line in [*left_out, *told]:
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
                training = Training(
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
