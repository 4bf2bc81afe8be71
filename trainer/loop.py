"""The training loop: ask, score, learn, publish, and again."""

from dataclasses import dataclass
from pathlib import Path

import torch
from anyio.from_thread import start_blocking_portal

from inference_server.schemas import ServerStatus
from trainer.checkpoint import Progress, checkpoint_folders, load_checkpoint, save_checkpoint
from trainer.client import ArmsClient
from trainer.config import RunConfig, TrainConfig
from trainer.data import load_records
from trainer.device import compute_device
from trainer.errors import UsageError
from trainer.held_out import HeldOutEvaluations
from trainer.jsonl import write_jsonl
from trainer.pipeline import open_pipeline
from trainer.policy import PolicyRoles
from trainer.publish import Publisher
from trainer.questions import QuestionState, QuestionStream
from trainer.rollout_metrics import rollout_metrics
from trainer.rollouts import RolloutBatch
from trainer.stop_signals import stop_signals
from trainer.sync import SyncCheck
from trainer.timing import StepClock
from trainer.tracking import Metrics, Tracker
from trainer.update import PPOUpdate
from trainer.word_problems import Split

ROLLOUTS_FOLDER = "rollouts"
ADAPTERS_FOLDER = "adapters"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to."""

    step: int
    """Steps done."""
    stopped: bool
    """A signal ended it before ``run.num_steps``."""
    adapter: Path
    """Folder of the newest adapter."""


def train(config: TrainConfig, *, resume: bool) -> TrainResult:
    """Train online until ``run.num_steps`` are done or a signal asks to stop.

    SIGTERM and Ctrl-C finish the step, write a checkpoint and return.

    Args:
        config: The whole run.
        resume: Continue from the newest checkpoint in ``run.folder``.

    Returns:
        What the run came to.

    Raises:
        UsageError: The server does not fit the run.
        SyncError: The server serves something else than was pushed.
        ServerError: The server stayed away for longer than ``server.give_up_after_s``.
        CheckpointError: The checkpoint cannot be resumed from.
    """
    run = config.run
    if run.num_threads is not None:
        torch.set_num_threads(run.num_threads)
    torch.manual_seed(run.seed)
    records = load_records(
        config.data.source,
        Split.TRAIN,
        num_records=config.data.num_questions,
        seed=config.data.seed,
    )
    with start_blocking_portal() as portal, stop_signals() as stop:
        client = ArmsClient(config.server)
        try:
            status = portal.call(client.status)
            _check_server(status, config)
            roles = PolicyRoles(
                config.policy,
                device=compute_device(run.device),
                serve_dtype=getattr(torch, status.base_dtype),
            )
            update = PPOUpdate(roles, config.ppo)
            progress = Progress(step=0, questions=QuestionState())
            if resume:
                progress = load_checkpoint(checkpoint_folders(run.folder)[-1], roles, update)
            publisher = Publisher(run.folder / ADAPTERS_FOLDER, client, portal)
            questions = QuestionStream(
                records,
                seed=config.data.seed,
                rest_after=config.data.curriculum,
                state=progress.questions,
            )
            sync = SyncCheck(
                client,
                portal,
                config,
                question=records[0].question,
                server_dtype=status.base_dtype,
            )
            with (
                Tracker(run, first_step=progress.step) as tracker,
                open_pipeline(client, portal, questions, config.rollout, config.reward) as pipeline,
                HeldOutEvaluations(client, portal, config, tracker.say) as evaluations,
            ):

                def save() -> None:
                    save_checkpoint(
                        run.folder,
                        progress,
                        roles,
                        update,
                        num_kept=run.num_checkpoints,
                        evaluating=evaluations.evaluating,
                    )

                published = publisher.publish(roles)
                sync.start(published)
                published_at = {published.version: progress.step}
                tracker.say(f"serving version {published.version} at step {progress.step}")
                while progress.step < run.num_steps and not stop.requested:
                    clock = StepClock(pipeline.server_busy)
                    step = progress.step + 1
                    is_last = step == run.num_steps

                    pipeline.ask(published.version, num_needed=run.num_steps - progress.step)
                    batch = pipeline.next_batch()
                    clock.lap("wait")
                    _journal(run, step, batch)
                    clock.lap("journal")
                    sync.require(batch.version, roles)
                    clock.lap("prove")

                    roles.load_proximal(publisher.folder_of(batch.version))
                    groups = [group.samples for group in batch.groups]
                    mini_batches = update.experience(groups, seed=f"{run.seed}/{step}")
                    clock.lap("experience")
                    ppo = update.step(
                        mini_batches,
                        train_policy=step > config.ppo.critic_warmup_steps,
                        learning_rate_scale=_learning_rate_scale(config, progress.step),
                    )
                    sync.require_rollouts(batch.version, ppo.logprob_mismatch)
                    clock.lap("update")

                    # While this step trained, the server answered the probe of the version before.
                    sync.require(published.version, roles)
                    clock.lap("prove")
                    lag = progress.step - published_at[batch.version]
                    published = publisher.publish(roles)
                    sync.start(published)
                    published_at[published.version] = step
                    clock.lap("publish")

                    if evaluations.is_due(step):
                        evaluations.start(step, published)
                    progress = Progress(step=step, questions=questions.state)
                    metrics: Metrics = {
                        "version": published.version,
                        "rollout/lag": lag,
                        **rollout_metrics(batch),
                        **ppo.to_json(),
                        **sync.metrics,
                        **evaluations.collect(wait=is_last),
                        "time/generate_s": batch.generate_s,
                        "time/score_s": batch.score_s,
                        **clock.to_json(),
                    }
                    tracker.step(step, metrics)
                    # After the line: resuming drops lines past the checkpoint, and makes none up.
                    if step % run.checkpoint_every == 0 or is_last or evaluations.is_due(step):
                        save()
                if stop.requested:
                    save()
                    tracker.say(f"stopped at step {progress.step}; --resume goes on from there")
                sync.require(published.version, roles)
            return TrainResult(
                step=progress.step,
                stopped=progress.step < run.num_steps,
                adapter=published.folder,
            )
        finally:
            portal.call(client.__aexit__, None, None, None)


def _check_server(status: ServerStatus, config: TrainConfig) -> None:
    """Refuse a server on which every later step would fail or, worse, mean nothing."""
    limits = status.limits
    if config.rollout.max_tokens >= limits.max_model_len_tokens:
        raise UsageError(
            f"rollout.max_tokens is {config.rollout.max_tokens}, but the server's context is "
            f"{limits.max_model_len_tokens} tokens; lower it or raise the server's --max-model-len"
        )
    if config.rollout.samples_per_arm > limits.max_samples_per_arm:
        raise UsageError(
            f"rollout.samples_per_arm is {config.rollout.samples_per_arm}, but the server allows "
            f"{limits.max_samples_per_arm}"
        )
    if config.policy.adapter is None and config.policy.lora_rank > limits.max_lora_rank:
        raise UsageError(
            f"policy.lora_rank is {config.policy.lora_rank}, but the server holds adapters up to "
            f"rank {limits.max_lora_rank}; lower it or raise the server's --max-lora-rank"
        )
    if config.rollout.max_staleness + 2 > limits.max_loaded_versions:
        raise UsageError(
            f"rollout.max_staleness {config.rollout.max_staleness} needs "
            f"{config.rollout.max_staleness + 2} versions on the server, which holds "
            f"{limits.max_loaded_versions}; raise its --max-loaded-versions"
        )


def _learning_rate_scale(config: TrainConfig, steps_done: int) -> float:
    if config.ppo.learning_rate_schedule == "constant":
        return 1.0
    return 1.0 - steps_done / config.run.num_steps


def _journal(run: RunConfig, step: int, batch: RolloutBatch) -> None:
    """Put a step's rollouts on disk before they are trained on."""
    folder = run.folder / ROLLOUTS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / f"step-{step:06d}.jsonl", [group.to_json(step) for group in batch.groups])
