"""Starts online PPO from a configuration: opens what a run needs, restores the run, and starts the loop."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from inference_server.wire.schemas import ServerStatus
from trainer.client.compatibility import check_base, check_server
from trainer.client.protocol import InferenceServer
from trainer.client.request_thread import open_requests
from trainer.config.sections import TrainConfig
from trainer.console.advice import ppo_advice
from trainer.console.run_output import RunOutput, start_line
from trainer.console.stop_signals import StopRequest, stop_signals
from trainer.doctor.memory import plan_in_message
from trainer.io.adapter_settings import base_advice, prompt_format_advice
from trainer.io.base_record import keep_base
from trainer.io.metrics_file import read_metrics
from trainer.io.run_layout import ADAPTERS_FOLDER, checkpoint_folders, has_begun, step_of
from trainer.model.adapter import readable_adapter
from trainer.model.dtype import difference_line, with_dtype
from trainer.model.prompts import prompt_format_of
from trainer.online.asked_questions import fitting_questions, load_questions
from trainer.online.loop import Training, TrainResult
from trainer.online.periodic_eval import HeldOutEvaluations
from trainer.online.pipeline import RolloutPipeline
from trainer.online.resume import (
    complete_metrics,
    finished_result,
    restart_evaluation,
    restore,
    restore_versions,
)
from trainer.online.versions import Versions
from trainer.online.weight_sync.proofs import Proofs
from trainer.ppo.leader_and_followers import FollowerStart, make_learner
from trainer.ppo.learner import Learner
from trainer.ranks.process_group import Ranks
from trainer.rollouts.pretrained_critic import pretrain_critic
from trainer.rollouts.questions import QuestionState
from trainer.rollouts.reward_functions import RewardFunctions, changed_sources
from trainer.run_state.checkpoint import TrainProgress, newest_checkpoint, save_checkpoint
from trainer.run_state.journal import Journal
from trainer.run_state.recorded_questions import QuestionRecord
from trainer.run_state.run_adapters import RunAdapters
from trainer.run_state.run_folder import (
    is_finished,
    keep_start,
    open_run,
    record_config,
    start_of,
    with_policy,
)
from trainer.run_state.run_start import prepared
from trainer.servers.connect import connection


def train(
    config: TrainConfig,
    *,
    client: InferenceServer | None = None,
    must_resume: bool = False,
    ranks: Ranks | None = None,
) -> TrainResult:
    """Train online until ``run.num_steps`` are done or a signal asks to stop.

    A run that was begun in ``run.folder`` resumes where it ended, however it ended. SIGTERM and Ctrl-C
    let the current update finish but do not wait for rollouts; a checkpoint is written.

    Args:
        config: The whole run.
        client: The server; None connects to ``server.url`` or ``server.urls``.
        must_resume: Whether it is an error if there is no run to resume.
        ranks: The processes that learn together, of which this is the first; None means this process alone.

    Raises:
        UsageError: The server does not fit the run, or the folder holds another run.
        SyncError: The server serves something else than was pushed.
        ServerError: The server stayed away for longer than ``server.give_up_after_s``.
        CheckpointError: There is no checkpoint from which the run can resume.
        JournalError: A step that has to be recomputed is damaged.
        NonFiniteError: A number is NaN or infinite; the step's rollouts are kept.
        RewardFunctionError: A function of ``reward.functions`` failed twice for the same group.
        RankLostError: Another rank has ended; a checkpoint is written.
        Stopped: A signal asked to stop before the run was restored.
    """
    config = prepared(config, lambda c: prompt_format_of(c.policy.base_model, print))
    with open_run(config, must_resume=must_resume) as journal, stop_signals() as stop:
        if is_finished(config):
            return finished_result(config.run.folder, journal.past)
        if config.policy.adapter is not None and not has_begun(config.run.folder):
            # Fail on an unreadable adapter before waiting for the server.
            readable_adapter(config.policy.adapter)
        server = client or connection(config.server)
        with (
            plan_in_message(config),
            RewardFunctions(config.reward) as functions,
            _open_training(config, server, functions, journal, stop, ranks or Ranks()) as training,
        ):
            return training.run()


@contextmanager
def _open_training(
    config: TrainConfig,
    server: InferenceServer,
    functions: RewardFunctions,
    journal: Journal,
    stop: StopRequest,
    ranks: Ranks,
) -> Iterator[Training]:
    """The restored run with everything that its loop needs; all of it is closed when the block ends."""
    run, loaded = config.run, load_questions(config)
    with open_requests(server) as requests, ExitStack() as stack:
        with stop.waiting():
            status = requests.call(requests.server.status)
        check_server(status, with_policy(config, start_of(config, run.folder)))
        check_base(status, config.policy)
        lines = _advice(config, journal)
        config = _with_settled_dtype(config, status, lines)
        # A run has begun once it has a learner, and keeps the settings of its data: none may be at fault then.
        asked = fitting_questions(loaded, config, status, lines)
        functions.require_columns(asked.training.asked)
        with stop.waiting():
            learner = _learner(config, status, ranks)
        adapters = RunAdapters(run.folder / ADAPTERS_FOLDER, journal)
        size = learner.roles.vocab_size
        versions = Versions(requests, adapters, config, found=status, vocab_size=size)
        newest = newest_checkpoint(run.folder, lines.append)
        steps_done = max(journal.past.last_step, step_of(newest))
        output = stack.enter_context(RunOutput(run, first_step=steps_done))
        held_out = HeldOutEvaluations(versions, config, asked.held_out, output.say)
        evaluations = stack.enter_context(held_out)
        records, past = asked.training.asked, read_metrics(run.folder)
        proofs = Proofs(
            versions, learner, config, records, server_dtype=status.base_dtype, past=past
        )
        record = QuestionRecord(run.folder, config.data, asked.training, asked.held_out)
        for line in (*lines, *record.lines):
            output.say(line)
        restored = restore(config, newest, journal, learner, output.say)
        with stop.waiting():
            progress = restore_versions(restored.progress, learner, versions, proofs, output.say)
        complete_metrics(restored, versions.newest.version, output)
        restart_evaluation(progress.step, versions, evaluations, output)
        questions = asked.stream(config.data, progress.questions)
        record.write()
        pipeline = RolloutPipeline(
            versions, questions, config.rollout, config.reward, functions.score
        )
        yield Training(
            config=run,
            stop=stop,
            journal=journal,
            learner=learner,
            versions=versions,
            proofs=proofs,
            pipeline=stack.enter_context(pipeline),
            reward_sources=functions.sources,
            evaluations=evaluations,
            output=output,
            progress=progress,
        )


def _advice(config: TrainConfig, journal: Journal) -> list[str]:
    """Lines about the run, settings that may be unintended, and changed reward functions."""
    rollout = config.rollout
    completions_each = len(rollout.arms) * rollout.samples_per_arm
    start = start_line(config.run, rollout.questions_per_step, completions_each)
    advice = ppo_advice(config.ppo, config.rollout.max_tokens, config.run.num_steps)
    advice += [
        *prompt_format_advice(config),
        *base_advice(start_of(config, config.run.folder)),
    ]
    warnings = (f"warning: {line}" for line in advice)
    return [start, *warnings, *changed_sources(journal.past.reward_sources)]


def _with_settled_dtype(config: TrainConfig, status: ServerStatus, lines: list[str]) -> TrainConfig:
    """Replace the dtype ``auto`` by the server's and record it; add lines that say which dtypes are used."""
    if line := difference_line(config.policy, status.base_dtype):
        lines.append(line)
    if config.policy.dtype == "auto":
        config = with_policy(config, with_dtype(config.policy, status.base_dtype))
        lines.append(f"computing in {config.policy.dtype}, as the server does")
        record_config(config)
    return config


def _learner(config: TrainConfig, status: ServerStatus, ranks: Ranks) -> Learner:
    """A learner in the run's starting state; for a new run, also pretrain the critic and save the first checkpoint."""
    run = config.run
    serve_dtype = getattr(torch, status.base_dtype)
    policy = start_of(config, run.folder)
    learner = make_learner(
        FollowerStart(config=config, policy=policy, serve_dtype=serve_dtype), ranks
    )
    # Again, since the files of a Hub id may have been downloaded only just now.
    check_base(status, config.policy)
    keep_base(run.folder, config.policy, served=status.base_fingerprint)
    roles = learner.roles
    if not has_begun(run.folder):
        keep_start(run.folder, roles)
    if not checkpoint_folders(run.folder):
        pretrain_critic(config, roles, print)
        start = TrainProgress(step=0, questions=QuestionState())
        save_checkpoint(run.folder, start, roles, learner.update, num_kept=run.num_checkpoints)
    return learner
