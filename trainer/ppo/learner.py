"""What a step makes of its rollouts: the one piece that training, resuming and replaying share.

Given the same rollouts, the same state and (on a CPU) the same number of threads it comes to the same
weights, bit for bit.
"""

from collections.abc import Sequence

from trainer.config.sections import TrainConfig
from trainer.model.adapter import AdapterState
from trainer.model.batch import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.diagnostics import UpdateMetrics
from trainer.ppo.experience import MiniBatch
from trainer.ppo.update import PPOUpdate


class Learner:
    """Roles and optimizers of a run."""

    def __init__(self, config: TrainConfig, roles: PolicyRoles):
        """Fresh optimizers on ``roles``."""
        self.roles = roles
        self.update = PPOUpdate(roles, config.ppo)
        self._config = config

    def learning_rate_scale(self, step: int) -> float:
        """Where the schedule stands at a step, as a factor on both learning rates."""
        if self._config.ppo.learning_rate_schedule == "constant":
            return 1.0
        return 1.0 - (step - 1) / self._config.run.num_steps

    def experience(
        self, step: int, groups: Sequence[Sequence[Sample]], proximal: AdapterState
    ) -> list[MiniBatch]:
        """Score a step's samples; moves nothing.

        Args:
            step: Counted from 1.
            groups: The samples of each question.
            proximal: The served weights that generated them.
        """
        self.roles.load_adapter_state(Role.PROXIMAL, proximal)
        return self.update.experience(groups, seed=f"{self._config.run.seed}/{step}")

    def learn(
        self, step: int, mini_batches: Sequence[MiniBatch], *, learning_rate_scale: float
    ) -> UpdateMetrics:
        """Move critic and policy; see `PPOUpdate.step`."""
        return self.update.step(
            mini_batches,
            train_policy=step > self._config.ppo.critic_warmup_steps,
            learning_rate_scale=learning_rate_scale,
        )
