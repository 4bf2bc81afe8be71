"""The training loop: ask, score, journal, learn, push, repeat.

Once a step is in the journal it is certain to be done: if the process is killed before the step is finished,
the next start recomputes it from the journal (`trainer.online.resume`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.config.sections import RunConfig
from trainer.console.run_output import RunOutput
from trainer.console.stop_signals import Stopped, StopRequest
from trainer.console.timing import StepClock
from trainer.errors import (
    BETWEEN_STEPS,
    CheckpointError,
)
from trainer.io.metrics_file import Metrics
from trainer.io.run_layout import checkpoint_folders, step_of
from trainer.online.failed_step import keep_failed_step
from trainer.online.periodic_eval import HeldOutEvaluations
from trainer.online.pipeline import RolloutPipeline
from trainer.online.versions import Versions
from trainer.online.weight_sync.proofs import Proofs
from trainer.ppo.experience import MiniBatch
from trainer.ppo.learner import Learner
from trainer.rollouts.groups import RolloutBatch
from trainer.rollouts.metrics import rollout_metrics
from trainer.run_state.checkpoint import TrainProgress, load_step, save_checkpoint
from trainer.run_state.journal import Journal
from trainer.run_state.journal_entries import JournaledStep

_FINISH_WITHIN_S = 5.0
"""After a stop signal, how long the end of a step may still wait for the server; `docker stop` allows 10 s."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    step: int
    """Steps done."""
    stopped: bool
    """A signal ended it before ``run.num_steps``."""
    adapter: Path
    """Folder of the newest adapter."""


@dataclass(kw_only=True)
class Training:
    """The restored run and its collaborators."""

    config: RunConfig
    stop: StopRequest
    journal: Journal
    learner: Learner
    versions: Versions
    proofs: Proofs
    pipeline: RolloutPipeline
    reward_sources: Mapping[str, str]
    """Digests of the source code of ``reward.functions``."""
    evaluations: HeldOutEvaluations
    output: RunOutput
    progress: TrainProgress
    """The steps that are trained and published."""

    def __post_init__(self) -> None:
        self._learned = self.progress.step
        """The last step that the weights have learned from; ahead of ``progress`` until it is published."""

    def run(self) -> TrainResult:
        """Do the remaining steps; when a signal or an error ends them, save a checkpoint if the newest is older."""
        num_steps, stopped = self.config.num_steps, False
        self._retain()
        try:
            while self.progress.step < num_steps:
                step, clock = self.progress.step + 1, StepClock(self.pipeline.server_busy)
                batch = self._next_batch(step, clock)
                learned = self._learn(step, batch, clock)
                published = self._publish(step, clock)
                self.progress = TrainProgress(step=step, questions=self.pipeline.questions.state)
                self.output.step(step, {**published, **learned, **clock.metrics()})
                self._retain()
                is_due = step % self.config.checkpoint_every == 0 or self.evaluations.is_due(step)
                if is_due and step < num_steps:
                    self._save()
                if step < num_steps:
                    self._return_to_best()
            with self.stop.waiting(grace_s=_FINISH_WITHIN_S):
                if evaluated := self.evaluations.collect(wait=True):
                    self.output.late_evaluation(num_steps, evaluated)
                # The last version generates no rollouts that train, so a probe has to prove it.
                self.proofs.prove(self.versions.newest)
            # A run is finished once its last step has a checkpoint.
            self._save()
        except (Stopped, *BETWEEN_STEPS) as error:
            # A step that was learned but not published is not saved: the journal has it, and the next
            # start does it again.
            newest = step_of(checkpoint_folders(self.config.folder)[-1])
            if newest < self.progress.step == self._learned < num_steps:
                self._save()
            if not isinstance(error, Stopped):
                raise
            stopped = True
            step = self.progress.step
            self.output.say(f"stopped at step {step}; the same command resumes there")
        adapter = self.versions.newest.folder
        return TrainResult(step=self.progress.step, stopped=stopped, adapter=adapter)

    def _next_batch(self, step: int, clock: StepClock) -> RolloutBatch:
        """The step's rollouts."""
        with self.stop.waiting():
            num_needed = self.config.num_steps - step + 1
            self.pipeline.ask(self.versions.newest.version, num_needed=num_needed)
            batch = self.pipeline.next_batch()
            clock.lap("wait")
        return batch

    def _learn(self, step: int, batch: RolloutBatch, clock: StepClock) -> Metrics:
        """Prove the version that generated the rollouts, journal the step, then train critic and policy."""
        entry = self._entry(step, batch)

        def journal_step(mini_batches: Sequence[MiniBatch]) -> None:
            clock.lap("experience")
            with self.stop.waiting():
                self.proofs.prove_rollouts(batch, mini_batches)
            clock.lap("prove")
            # From here on the step is certain: if this process dies, a resume recomputes it.
            self.journal.write_step(batch.groups, entry)
            clock.lap("journal")

        folder, roles = self.config.folder, self.learner.roles
        token_budget = self.learner.token_budget
        with keep_failed_step(folder, step, batch.groups, roles, self.journal):
            ppo = self.learner.step(
                step,
                [group.samples for group in batch.groups],
                self.versions.adapters.weights_of(batch.version),
                learning_rate_scale=entry.learning_rate_scale,
                before_update=journal_step,
            )
        if self.learner.token_budget < token_budget:
            self.output.say(
                f"step {step}: out of GPU memory with micro-batches of {token_budget} tokens; done with "
                f"{self.learner.token_budget}, which stays until the next start (ppo.token_budget)"
            )
        self._learned = step
        clock.lap("update")
        return {**entry.metrics, **ppo.by_name()}

    def _publish(self, step: int, clock: StepClock) -> Metrics:
        """Push the step's policy, and start its evaluation if one is due."""
        versions, evaluations = self.versions, self.evaluations
        with self.stop.waiting(grace_s=_FINISH_WITHIN_S):
            learner = self.learner
            versions.publish(step, learner.roles, token_budget=learner.token_budget)
            clock.lap("publish")
            is_last = step == self.config.num_steps
            # Only one evaluation runs at a time, so a finished one is collected before the next starts.
            evaluated = evaluations.collect(wait=is_last)
            if evaluations.is_due(step):
                evaluations.start(step, versions.newest)
            # A step's line has one evaluation: another one waits for the next line.
            evaluated = evaluated or evaluations.collect(wait=is_last)
        return {"version": versions.newest.version, **self.proofs.metrics, **evaluated}

    def _return_to_best(self) -> None:
        """Go back to the weights of the best evaluated step if a later evaluation was worse."""
        best, step = self.evaluations.better_to_go_on_from(), self.progress.step
        if best is None:
            return
        folder, learner, versions = self.config.folder, self.learner, self.versions
        # A resume then starts from this checkpoint, not from the one that the run returns to.
        if step_of(checkpoint_folders(folder)[-1]) < step:
            self._save()
        try:
            load_step(folder, best.step, learner.roles, learner.update)
        except CheckpointError as error:
            self.output.say(f"cannot go back to step {best.step}: {error}")
            return
        versions.adapters.return_to(best.step, after=step)
        with self.stop.waiting(grace_s=_FINISH_WITHIN_S):
            versions.publish(step, learner.roles, token_budget=learner.token_budget)
        self.output.say(
            f"step {step}: accuracy has fallen; going on from step {best.step} ({best.accuracy:.1%}) as "
            f"version {versions.newest.version}"
        )

    def _entry(self, step: int, batch: RolloutBatch) -> JournaledStep:
        """The step's line in the journal."""
        questions = self.pipeline.questions.state
        return JournaledStep(
            step=step,
            version=batch.version,
            learning_rate_scale=self.learner.learning_rate_scale(step),
            num_threads=torch.get_num_threads(),
            num_ranks=self.learner.update.num_shards,
            cursor=questions.cursor,
            pending=questions.pending,
            solved=batch.solved,
            reward_sources=dict(self.reward_sources),
            metrics={
                "rollout/lag": self.progress.step - self.versions.adapters.step_of(batch.version),
                **rollout_metrics(batch),
                "ppo/learning_rate": self.learner.learning_rate(step),
                "time/generate_s": batch.generate_s,
                "time/score_s": batch.score_s,
            },
        )

    def _save(self) -> None:
        self.output.flush()
        weights_of = self.versions.adapters.weights_of
        save_checkpoint(
            self.config.folder,
            self.progress,
            self.learner.roles,
            self.learner.update,
            served={version: weights_of(version) for version in self.progress.questions.versions},
            num_kept=self.config.num_checkpoints,
            # The step being evaluated may become the best one.
            kept_steps={self.evaluations.evaluating or 0, *self.versions.adapters.returned_to},
        )

    def _retain(self) -> None:
        kept = self.progress.questions.versions | self.evaluations.versions
        self.versions.adapters.retain(self.config.num_adapters, kept)
