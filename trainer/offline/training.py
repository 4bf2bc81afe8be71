"""PPO from rollouts that were collected before: the online update without a server.

The proximal policy of every step is the starting policy, which also sampled the file if the file was collected with
that adapter. PPO's clipping thus keeps the policy close to the one that the samples come from, however many passes
are made. The reference is the starting policy too, so there is no KL penalty.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from inference_server.wire.schemas import adapter_name
from trainer.config.sections import OfflineRunConfig, RunConfig
from trainer.console.advice import no_kl_line, ppo_advice
from trainer.console.run_output import RunOutput, start_line
from trainer.console.stop_signals import stop_signals
from trainer.console.timing import BusyTime, StepClock
from trainer.doctor.memory import plan_in_message
from trainer.errors import BETWEEN_STEPS, UsageError
from trainer.io.adapter_settings import base_advice
from trainer.io.base_record import keep_base
from trainer.io.metrics_file import Metrics, read_metrics
from trainer.io.run_layout import ADAPTERS_FOLDER, checkpoint_folders, step_of
from trainer.model.batches.sample import Sample
from trainer.model.device import compute_device, halved_if_out_of_memory
from trainer.model.dtype import torch_dtype, with_default_dtype
from trainer.model.roles import PolicyRoles, Role
from trainer.offline.rollouts_file import (
    foreign_warning,
    open_file,
    say_what_is_in_the_file,
)
from trainer.ppo.learner import Learner
from trainer.rollouts.files import StoredRollouts, format_of_file
from trainer.rollouts.groups import ScoredGroup
from trainer.rollouts.metrics import group_metrics
from trainer.rollouts.pretrained_critic import pretrain_critic
from trainer.rollouts.questions import QuestionState, QuestionStream
from trainer.rollouts.reward_functions import RewardFunctions
from trainer.run_state.checkpoint import (
    TrainProgress,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from trainer.run_state.run_adapters import retain_newest, save_adapter
from trainer.run_state.run_folder import open_run, with_policy
from trainer.run_state.run_start import prepared

_PENALTY_METRICS = ("ppo/reference_kl", "ppo/kl_coef")
"""Metrics of the KL penalty. They are not written, because they would suggest that the policy has not moved."""


def train_offline(config: OfflineRunConfig, *, must_resume: bool = False) -> Path:
    """Train on the file until ``offline.num_epochs`` are done or a signal asks to stop.

    A run that was begun in ``run.folder`` resumes from its newest checkpoint. After SIGTERM or Ctrl-C the
    current step is finished and a checkpoint written.

    Args:
        config: The configuration of the whole run.
        must_resume: Whether beginning a new run is an error.

    Returns:
        Folder of the newest adapter.

    Raises:
        UsageError: The folder holds another run.
        DataError: The file cannot be read, or holds rollouts that cannot be trained on.
        CheckpointError: No checkpoint can be resumed from.
        RewardFunctionError: A function of ``reward.functions`` failed twice for one group.
    """
    config = prepared(config, lambda c: format_of_file(c.rollouts))
    device, lines = compute_device(config.run.device), list[str]()
    config = with_policy(config, with_default_dtype(config.policy, device, lines.append))
    with (
        open_run(config, must_resume=must_resume),
        stop_signals() as stop,
        plan_in_message(config),
    ):
        rollouts = open_file(config)
        run = _with_its_steps(config, len(rollouts.records))
        num_steps = run.num_steps
        with stop.waiting():
            learner, progress = _restore(config, run, device)
        keep_base(run.folder, config.policy)
        with (
            RunOutput(run, first_step=progress.step) as output,
            RewardFunctions(config.reward) as functions,
        ):
            advice = [
                *ppo_advice(config.ppo, config.rollout.max_tokens, num_steps),
                *base_advice(config.policy),
            ]
            output.say(start_line(run, config.rollout.questions_per_step))
            for line in (*lines, *no_kl_line(config.ppo), *(f"warning: {line}" for line in advice)):
                output.say(line)
            say_what_is_in_the_file(config, rollouts, num_steps, output.say)
            if progress.step:
                output.say(f"resuming after step {progress.step}")
            training = _OfflineTraining(config, run, rollouts, functions, learner, output, progress)
            while training.progress.step < num_steps and not stop.requested:
                try:
                    training.step()
                except BETWEEN_STEPS:
                    training.save()
                    raise
                if training.is_due or stop.requested:
                    training.save()
            if stop.requested:
                step = training.progress.step
                output.say(f"stopped at step {step}; the same command resumes there")
    return training.adapter


def _with_its_steps(config: OfflineRunConfig, num_groups: int) -> RunConfig:
    """The settings of a run that is as long as its file."""
    num_groups *= config.offline.num_epochs
    num_steps = math.ceil(num_groups / config.rollout.questions_per_step)
    if (warmup := config.ppo.learning_rate_warmup_steps) > num_steps:
        raise UsageError(
            f"ppo.learning_rate_warmup_steps = {warmup} is more than the {num_steps} steps of this run: the learning "
            "rates would never be reached"
        )
    return config.run.model_copy(update={"num_steps": num_steps})


def _restore(
    config: OfflineRunConfig, run: RunConfig, device: torch.device
) -> tuple[Learner, TrainProgress]:
    """The learner and the progress at the newest checkpoint, or at the start if there is none."""
    roles = PolicyRoles(
        config.policy, device=device, serve_dtype=torch_dtype(config.policy, device)
    )
    learner = Learner(config.ppo, run, roles)
    if not checkpoint_folders(run.folder):
        pretrain_critic(config, roles, print)
        return learner, TrainProgress(step=0, questions=QuestionState())
    newest = newest_checkpoint(run.folder, print)
    return learner, load_checkpoint(newest, roles, learner.update).progress


class _OfflineTraining:
    """The steps of a run from a file."""

    def __init__(
        self,
        config: OfflineRunConfig,
        run: RunConfig,
        rollouts: StoredRollouts,
        functions: RewardFunctions,
        learner: Learner,
        output: RunOutput,
        progress: TrainProgress,
    ):
        self.progress = progress
        self.adapter = _adapter_folder(run.folder, progress.step)
        """Folder of the newest adapter that was saved."""
        self._config = config
        self._run = run
        self._rollouts = rollouts
        self._score = functions.score
        self._learner = learner
        self._output = output
        self._has_learned = any("ppo/policy_loss" in row for row in read_metrics(run.folder))
        """Whether a step had samples; the first one that has some shows whether the file is another policy's."""
        self._questions = QuestionStream(rollouts.records, seed=run.seed, state=progress.questions)
        # The starting adapter, also after a resume: the reference is a frozen copy of it.
        self._start = learner.roles.adapter_state(Role.REFERENCE)

    def step(self) -> None:
        """Train on the next questions of the file."""
        config, clock, step = self._config, StepClock(BusyTime()), self.progress.step + 1
        batch = self._questions.take(config.rollout.questions_per_step, version=self.progress.step)
        groups = [self._rollouts.group(r, config.reward, self._score) for r in batch.records]
        clock.lap("score")
        samples, self._learner.token_budget = halved_if_out_of_memory(
            partial(_with_behaviour, self._learner.roles, groups), self._learner.token_budget
        )
        ppo = self._learner.step(
            step,
            samples,
            self._start,
            learning_rate_scale=self._learner.learning_rate_scale(step),
            before_update=lambda _: clock.lap("experience"),
        )
        clock.lap("update")
        self._questions.done(batch, {})
        self.progress = TrainProgress(step=step, questions=self._questions.state)
        if not self._has_learned and any(samples):
            self._has_learned = True
            if warning := foreign_warning(ppo.logprob_mismatch):
                self._output.say(warning)
        metrics: Metrics = {
            **group_metrics(groups, groups),
            "ppo/learning_rate": self._learner.learning_rate(step),
            **ppo.by_name(),
            **clock.phases(),
        }
        for name in _PENALTY_METRICS:
            del metrics[name]
        self._output.step(step, metrics)

    @property
    def is_due(self) -> bool:
        """Whether the step that was just done gets a checkpoint."""
        step = self.progress.step
        return step % self._run.checkpoint_every == 0 or step == self._run.num_steps

    def save(self) -> None:
        """Write adapter and checkpoint, and remove the older ones that are not to be kept."""
        roles, run = self._learner.roles, self._run
        self.adapter = _adapter_folder(run.folder, self.progress.step)
        save_adapter(roles, self.adapter)
        self._output.flush()
        save_checkpoint(
            run.folder, self.progress, roles, self._learner.update, num_kept=run.num_checkpoints
        )
        # A run that goes back to a checkpoint, since a newer one is damaged, has that step's adapter to show.
        of_checkpoints = {step_of(folder) for folder in checkpoint_folders(run.folder)}
        retain_newest(run.folder, run.num_adapters, of_checkpoints)


def _adapter_folder(run_folder: Path, step: int) -> Path:
    return run_folder / ADAPTERS_FOLDER / adapter_name(step)


def _with_behaviour(
    roles: PolicyRoles, groups: Sequence[ScoredGroup], token_budget: int
) -> list[list[Sample]]:
    """The samples that train; samples without logprobs get the starting policy's."""
    samples = [group.samples for group in groups]
    texts = [sample for group in samples for sample in group if not sample.sampler_logprobs]
    if not texts:
        return samples
    blank = [replace(s, sampler_logprobs=(0.0,) * len(s.completion_ids)) for s in texts]
    found = roles.completion_logprobs(Role.REFERENCE, blank, token_budget=token_budget)
    filled = iter(
        replace(s, sampler_logprobs=tuple(logprobs.tolist()))
        for s, logprobs in zip(texts, found, strict=True)
    )
    return [[s if s.sampler_logprobs else next(filled) for s in group] for group in samples]
