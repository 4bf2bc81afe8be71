"""Training by PPO: online, and from a file of rollouts."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from inference_server.wire.settings.model import SettingsModel
from trainer.config.base import CommandConfig
from trainer.config.data import DataConfig
from trainer.config.policy import PolicyConfig
from trainer.config.ppo import PPOConfig
from trainer.config.rollout import RewardSettings, RolloutConfig
from trainer.config.run import RunConfig
from trainer.config.server import ServerConfig


def _require_comparison(ppo: PPOConfig, clash: str) -> None:
    """Refuse rloo and grpo if they have nothing to compare: all advantages would be 0, and nothing would be learned.

    Args:
        ppo: Names the advantage estimator.
        clash: Why they have nothing to compare.

    Raises:
        ValueError: The estimator compares a group's completions.
    """
    if ppo.advantage != "gae":
        raise ValueError(
            f"ppo.advantage = {ppo.advantage} compares a question's completions, but {clash}"
        )


def _require_rewards_to_compare(ppo: PPOConfig, reward: RewardSettings) -> None:
    if reward.selection != "all":
        _require_comparison(
            ppo, f"reward.selection = {reward.selection} lets only one of them train"
        )
    if reward.credit == "shared" and reward.is_regime_w:
        _require_comparison(ppo, "reward.credit = shared rewards all of them alike")


class TrainConfig(CommandConfig):
    """Everything about an online PPO run."""

    policy: PolicyConfig = PolicyConfig()
    data: DataConfig = DataConfig()
    server: ServerConfig = Field(default_factory=ServerConfig)
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardSettings = RewardSettings()
    ppo: PPOConfig = PPOConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _adapters_outlive_their_rollouts(self) -> Self:
        if self.run.num_adapters < self.rollout.max_staleness + 2:
            raise ValueError(
                f"run.num_adapters = {self.run.num_adapters} must be at least "
                f"{self.rollout.max_staleness + 2}: rollout.max_staleness + 2"
            )
        return self

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.ppo.learning_rate_warmup_steps > self.run.num_steps:
            raise ValueError(
                f"ppo.learning_rate_warmup_steps = {self.ppo.learning_rate_warmup_steps} is more than "
                f"run.num_steps = {self.run.num_steps}: the learning rates would never be reached"
            )
        return self

    @model_validator(mode="after")
    def _pairs_have_room(self) -> Self:
        if self.data.counterfactual and self.rollout.questions_per_step == 1:
            raise ValueError(
                "data.counterfactual puts a question and its counterfactual in one step, for which "
                "rollout.questions_per_step = 1 has no room"
            )
        return self

    @model_validator(mode="after")
    def _groups_can_be_compared(self) -> Self:
        _require_rewards_to_compare(self.ppo, self.reward)
        if len(self.rollout.arms) * self.rollout.samples_per_arm == 1:
            _require_comparison(
                self.ppo, "rollout.arms and rollout.samples_per_arm ask for a single one"
            )
        return self


class TrainCommand(TrainConfig):
    """Online PPO against a running server."""

    resume: bool = False
    """Refuse to begin a new run; a run that was begun in run.folder resumes with or without this."""


class OfflineConfig(SettingsModel):
    """How collected rollouts are used."""

    num_epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the file, each in a different order."""


class OfflineRunConfig(CommandConfig):
    """PPO from a file of rollouts, without a server.

    The run's length is offline.num_epochs, in steps of rollout.questions_per_step questions. Keys of run, rollout and
    ppo about the number of steps, evaluation, generation and staleness have no effect here, nor do ppo.kl_coef,
    ppo.adaptive_kl and ppo.target_kl: the reference is the policy that every step is compared with, and clipping
    keeps the policy near it.
    """

    rollouts: Path = Path("runs/rollouts.jsonl")
    """The file: from `collect`, from a run's rollouts folder, or from the original recipe (text alone)."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Most questions of the file to use; null uses all."""
    policy: PolicyConfig = PolicyConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardSettings = RewardSettings()
    """The reward by which the rollouts are scored again."""
    ppo: PPOConfig = PPOConfig()
    offline: OfflineConfig = OfflineConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _groups_can_be_compared(self) -> Self:
        _require_rewards_to_compare(self.ppo, self.reward)
        return self


class TrainOfflineCommand(OfflineRunConfig):
    """PPO from a file of rollouts, without a server."""

    resume: bool = False
    """Refuse to begin a new run; a run that was begun in run.folder resumes with or without this."""
