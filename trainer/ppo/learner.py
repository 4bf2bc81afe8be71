"""Updates a run's weights by a step's rollouts; training, resuming and replaying share this code.

The same rollouts, the same state and (on a CPU) the same number of threads give the same weights, bit
for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import torch

from trainer.config.sections import PPOConfig, RunConfig
from trainer.model.adapter import AdapterState
from trainer.model.batches.sample import Sample
from trainer.model.device import halved_if_out_of_memory
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.diagnostics import UpdateMetrics, metrics_without_samples
from trainer.ppo.experience import MiniBatch
from trainer.ppo.learner_state import fingerprint, learner_state, load_learner_state
from trainer.ppo.update import PPOUpdate
from trainer.ranks.process_group import Ranks


def learning_rate_scale(config: PPOConfig, step: int, *, num_steps: int) -> float:
    """The factor on both learning rates at a step.

    It rises to 1 over the warm-up's steps and, with the linear schedule, falls from there on.

    Args:
        config: Its ``learning_rate_schedule`` and ``learning_rate_warmup_steps`` are used.
        step: Counted from 1.
        num_steps: The run's number of steps.
    """
    num_warmup = config.learning_rate_warmup_steps
    if step < num_warmup:
        return step / num_warmup
    if config.learning_rate_schedule == "constant":
        return 1.0
    first = max(1, num_warmup)
    return 1.0 - (step - first) / (num_steps - first + 1)


@dataclass(frozen=True, kw_only=True)
class ScoringCall:
    """The arguments of `Learner.experience`, as the first rank sends them to the others."""

    step: int
    groups: Sequence[Sequence[Sample]]
    proximal: AdapterState
    token_budget: int
    num_shards: int
    num_threads: int


@dataclass(frozen=True, kw_only=True)
class LearningCall:
    """The arguments of `Learner.learn` except the experience, which every rank has already."""

    step: int
    learning_rate_scale: float


class Learner:
    """A run's roles and optimizers. Each of several ranks has its own learner, and all stay in the same state."""

    def __init__(
        self, ppo: PPOConfig, run: RunConfig, roles: PolicyRoles, ranks: Ranks | None = None
    ):
        """Create fresh optimizers.

        Args:
            ppo: The update's settings.
            run: Its seed and its number of steps are used.
            roles: The roles whose weights are trained.
            ranks: The processes that learn together; None means this process alone.
        """
        self.roles = roles
        self.ranks = ranks or Ranks()
        self.update = PPOUpdate(roles, ppo, self.ranks)
        self.token_budget = ppo.token_budget
        """The most tokens of a micro-batch; `step` halves it if the GPU runs out of memory."""
        self._ppo, self._run = ppo, run

    def learning_rate_scale(self, step: int) -> float:
        """The factor that warm-up and schedule put on both learning rates at a step."""
        return learning_rate_scale(self._ppo, step, num_steps=self._run.num_steps)

    def learning_rate(self, step: int) -> float:
        """The policy's learning rate at a step."""
        return self._ppo.learning_rate * self.learning_rate_scale(step)

    def step(
        self,
        step: int,
        groups: Sequence[Sequence[Sample]],
        proximal: AdapterState,
        *,
        learning_rate_scale: float,
        before_update: Callable[[Sequence[MiniBatch]], None] = lambda mini_batches: None,
    ) -> UpdateMetrics:
        """One PPO step: score its samples, then train critic and policy.

        A step without samples, since no completion has a reward, changes nothing.

        Args:
            step: Counted from 1.
            groups: The samples of each question.
            proximal: The served weights that generated them.
            learning_rate_scale: A factor on both learning rates.
            before_update: Called with the step's experience before any weights change; without samples, it is empty.

        Raises:
            NonFiniteError: A number is NaN or infinite; the learner is as it was before the step.
            OutOfMemoryError: The step does not fit into the GPU's memory, even with micro-batches of half the
                size; the learner is as it was before the step.
            RankLostError: Another rank has ended; the learner is as it was before the step.
        """
        was_announced = False
        groups = [group for group in groups if group]
        if not groups:
            # The other ranks, which have no part in it, go on waiting for the next step.
            before_update([])
            return metrics_without_samples(kl_coef=self.update.kl.coef)

        def scored_and_learned(token_budget: int) -> UpdateMetrics:
            nonlocal was_announced
            self.token_budget = token_budget
            mini_batches = self.experience(step, groups, proximal)
            if not was_announced:
                before_update(mini_batches)
                was_announced = True
            return self.learn(step, mini_batches, learning_rate_scale=learning_rate_scale)

        metrics, _ = halved_if_out_of_memory(scored_and_learned, self.token_budget)
        return metrics

    def experience(
        self, step: int, groups: Sequence[Sequence[Sample]], proximal: AdapterState
    ) -> list[MiniBatch]:
        """Compute a step's experience; of the weights, only the proximal role changes.

        Args:
            step: Counted from 1.
            groups: The samples of each question.
            proximal: The served weights that generated them; loaded into the proximal role.
        """
        self._tell(
            ScoringCall(
                step=step,
                groups=groups,
                proximal=proximal,
                token_budget=self.token_budget,
                num_shards=self.update.num_shards,
                num_threads=torch.get_num_threads(),
            )
        )
        with self.ranks.together():
            self._share_state()
            self.roles.load_adapter_state(Role.PROXIMAL, proximal)
            return self.update.experience(
                groups, seed=f"{self._run.seed}/{step}", token_budget=self.token_budget
            )

    def learn(
        self, step: int, mini_batches: Sequence[MiniBatch], *, learning_rate_scale: float
    ) -> UpdateMetrics:
        """Train critic and policy; see `PPOUpdate.step`."""
        self._tell(LearningCall(step=step, learning_rate_scale=learning_rate_scale))
        with self.ranks.together():
            return self.update.step(
                mini_batches,
                train_policy=step > self._ppo.critic_warmup_steps,
                learning_rate_scale=learning_rate_scale,
            )

    def _tell(self, call: ScoringCall | LearningCall) -> None:
        """On the first rank, let the other ranks make the same call."""
        if self.ranks.rank == 0:
            self.ranks.broadcast(call)

    def _share_state(self) -> None:
        """Give the first rank's state to all ranks if any differs: at the start, and after a checkpoint is loaded."""
        if self.ranks.size == 1:
            return
        found = self.ranks.gathered(lambda: fingerprint(self.roles, self.update))
        if len(set(found)) > 1:
            # As a file's bytes, so that another rank can read it without the first rank's GPU.
            file = BytesIO()
            torch.save(learner_state(self.roles, self.update), file)
            received = BytesIO(self.ranks.broadcast_bytes(file.getvalue()))
            state = torch.load(received, map_location="cpu", weights_only=True)
            load_learner_state(state, self.roles, self.update)
