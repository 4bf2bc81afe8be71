"""PPO from rollouts that were collected before: the online update without a server.

The proximal policy is the one that training starts from, in every step: the one that sampled the file, if
it was collected with that adapter. PPO's clipping thus keeps the policy where the file's samples still
say something about it, however many passes are made. The KL penalty to the reference, which is the same
policy, has nothing to penalise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer

from inference_server.wire.schemas import adapter_name
from trainer.config.sections import TrainConfig
from trainer.config.stages import OfflineRunConfig
from trainer.console.stop_signals import StopRequest, stop_signals
from trainer.console.timing import BusyTime, StepClock
from trainer.console.tracking import Metrics, Tracker
from trainer.model.batch import Sample
from trainer.model.device import compute_device
from trainer.model.roles import PolicyRoles, Role
from trainer.online.versions import save_adapter
from trainer.ppo.learner import Learner
from trainer.rollouts.files import Retokeniser, StoredRollouts
from trainer.rollouts.groups import ScoredGroup
from trainer.rollouts.metrics import group_metrics
from trainer.rollouts.questions import QuestionState, QuestionStream
from trainer.run_state.checkpoint import (
    TrainProgress,
    checkpoint_folders,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from trainer.run_state.run_folder import ADAPTERS_FOLDER, open_run

_FOREIGN_NATS = 0.05
"""Mean |starting policy - file| logprob from which the file is plainly not of the starting policy; where
both compute in bfloat16 rounding stays below."""


def train_offline(config: OfflineRunConfig, *, must_resume: bool = False) -> Path:
    """Train on the file until ``offline.num_epochs`` are done or a signal asks to stop.

    A run that was begun in ``run.folder`` goes on from its newest checkpoint. SIGTERM and Ctrl-C finish
    the step, write a checkpoint and return.

    Args:
        config: The whole run.
        must_resume: A new run is an error.

    Returns:
        Folder of the newest adapter.

    Raises:
        UsageError: The folder holds another run.
        DataError: The file cannot be read, or holds what cannot be trained on.
        CheckpointError: No checkpoint can be resumed from.
    """
    if config.run.num_threads is not None:
        torch.set_num_threads(config.run.num_threads)
    torch.manual_seed(config.run.seed)
    with open_run(config, must_resume=must_resume), stop_signals() as stop:
        return _train_offline(config, stop)


def _train_offline(config: OfflineRunConfig, stop: StopRequest) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(config.policy.base_model)
    rollouts = StoredRollouts(
        config.rollouts, Retokeniser.of(tokenizer, config.rollout), num_groups=config.limit
    )
    num_groups = len(rollouts.records) * config.offline.num_epochs
    num_steps = math.ceil(num_groups / config.rollout.questions_per_step)
    run = config.run.model_copy(update={"num_steps": num_steps})
    roles = PolicyRoles(
        config.policy,
        device=compute_device(run.device),
        serve_dtype=getattr(torch, config.policy.dtype),
    )
    learner = Learner(
        TrainConfig(policy=config.policy, rollout=config.rollout, ppo=config.ppo, run=run), roles
    )
    progress = TrainProgress(step=0, questions=QuestionState())
    if checkpoint_folders(run.folder):
        newest = newest_checkpoint(run.folder, print)
        progress = load_checkpoint(newest, roles, learner.update).progress
    # Also of a run that goes on: the reference is a frozen copy of what it began with.
    start = roles.adapter_state(Role.REFERENCE)
    questions = QuestionStream(rollouts.records, seed=run.seed, state=progress.questions)
    adapter = _adapter_folder(run.folder, progress.step)
    with Tracker(run, first_step=progress.step) as tracker:
        _say_what_is_in_the_file(config.rollouts, rollouts, num_steps, tracker.say)
        if progress.step:
            tracker.say(f"going on from step {progress.step}")

        def save() -> None:
            save_adapter(roles, adapter)
            tracker.flush()
            save_checkpoint(
                run.folder, progress, roles, learner.update, num_kept=run.num_checkpoints
            )

        while progress.step < num_steps and not stop.requested:
            clock = StepClock(BusyTime())
            step = progress.step + 1
            batch = questions.take(config.rollout.questions_per_step, version=progress.step)
            groups = [rollouts.group(record, config.reward) for record in batch.records]
            clock.lap("score")
            samples = _with_behaviour(roles, groups, token_budget=config.ppo.token_budget)
            mini_batches = learner.experience(step, samples, start)
            clock.lap("experience")
            ppo = learner.learn(
                step, mini_batches, learning_rate_scale=learner.learning_rate_scale(step)
            )
            clock.lap("update")
            questions.done(batch, {})
            progress = TrainProgress(step=step, questions=questions.state)
            if step == 1 and ppo.logprob_mismatch > _FOREIGN_NATS:
                tracker.say(_foreign_warning(ppo.logprob_mismatch))
            metrics: Metrics = {**group_metrics(groups, groups), **ppo.to_json(), **clock.phases()}
            tracker.step(step, metrics)
            if step % run.checkpoint_every == 0 or step == num_steps or stop.requested:
                adapter = _adapter_folder(run.folder, step)
                save()
        if stop.requested:
            tracker.say(f"stopped at step {progress.step}; the same command goes on from there")
    return adapter


def _adapter_folder(run_folder: Path, step: int) -> Path:
    return run_folder / ADAPTERS_FOLDER / adapter_name(step)


def _with_behaviour(
    roles: PolicyRoles, groups: Sequence[ScoredGroup], *, token_budget: int
) -> list[list[Sample]]:
    """The samples that train; those of text alone as the starting policy would have sampled them."""
    samples = [group.samples for group in groups]
    texts = [sample for group in samples for sample in group if not sample.sampler_logprobs]
    if not texts:
        return samples
    blank = [replace(s, sampler_logprobs=(0.0,) * len(s.completion_ids)) for s in texts]
    found = roles.sample_logprobs(Role.REFERENCE, blank, token_budget=token_budget)
    filled = iter(
        replace(s, sampler_logprobs=tuple(logprobs.tolist()))
        for s, logprobs in zip(texts, found, strict=True)
    )
    return [[s if s.sampler_logprobs else next(filled) for s in group] for group in samples]


def _say_what_is_in_the_file(
    path: Path, rollouts: StoredRollouts, num_steps: int, say: Callable[[str], None]
) -> None:
    versions = sorted("base" if v is None else str(v) for v in rollouts.versions)
    say(
        f"{path}: {len(rollouts.records)} questions, {rollouts.num_completions} completions of "
        f"version {', '.join(versions)}; {num_steps} steps"
    )
    if rollouts.num_texts:
        say(
            f"warning: {rollouts.num_texts} of the completions are text without tokens and logprobs. "
            "They are tokenised again under their arm's prompt and taken to be sampled by the policy "
            "that training starts from. If another model wrote them, or other tokens, the importance "
            "weights are wrong: PPO then learns from them as if they were its own"
        )


def _foreign_warning(mismatch: float) -> str:
    return (
        f"warning: the file's logprobs differ from those of the policy that training starts from by "
        f"{mismatch:.2g} nats a token: another policy sampled it. Importance weights up to "
        "ppo.max_importance_weight make up for a part of that; start from the adapter that the file "
        "was collected with, or set ppo.sequence_mask"
    )
