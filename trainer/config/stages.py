"""What the stages beside online PPO can be told: SFT, collecting, PPO from a file.

They share their sections with `trainer.config.sections.TrainConfig`, so that one TOML file holds a whole recipe:
each command reads the sections that it knows. Loads neither torch nor vllm.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from regime_w import RewardConfig
from trainer.config.sections import (
    DataConfig,
    Device,
    PolicyConfig,
    PPOConfig,
    RolloutConfig,
    RunConfig,
    Section,
    ServerConfig,
    TrainConfig,
)


class SFTConfig(Section):
    """How the demonstrations are imitated."""

    num_examples: Annotated[int, Field(ge=1)] = 2_000
    """How many demonstrations to use at most."""
    num_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the demonstrations."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """AdamW's, decayed to zero along a cosine."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Demonstrations (packed rows, with packing) of one optimizer step."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Of them, how many are in memory at a time; all where null. Must divide batch_size."""
    packing: bool = False
    """Put several demonstrations into each row of packed_row_tokens; none attends to another."""
    packed_row_tokens: Annotated[int, Field(ge=1)] = 2_048
    """Length of a packed row; a longer demonstration is cut into rows."""
    num_evaluation_examples: Annotated[int, Field(ge=0)] = 200
    """Held-out questions of data.evaluation_source whose solutions' loss is measured; 0 measures none."""
    evaluate_every: Annotated[int, Field(ge=1)] = 50
    """Steps between measurements of that loss; the last step always has one."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 50
    """Steps between checkpoints to resume from."""
    seed: int = 0
    """Seed of the arms' mixture and of the shuffle."""

    @model_validator(mode="after")
    def _micro_batches_fill_a_batch(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"sft.micro_batch_size = {self.micro_batch_size} does not divide "
                f"sft.batch_size = {self.batch_size}"
            )
        return self


class SFTRunConfig(Section):
    """Supervised fine-tuning of a LoRA adapter on demonstrations, under the arms' prompts."""

    policy: PolicyConfig = PolicyConfig()
    data: DataConfig = DataConfig()
    """`word-problems` has careless demonstrations of its own; of other sources the answers are imitated."""
    sft: SFTConfig = SFTConfig()
    output: Path = Path("runs/sft")
    """Folder of the adapter, and of the checkpoints while it is trained."""
    device: Device = "auto"
    """Where to compute."""


class CollectConfig(Section):
    """Rollouts over all arms into a JSONL file; it goes on where a killed collection ended."""

    output: Path = Path("runs/rollouts.jsonl")
    """The file; `.gz` and `.zst` compress it."""
    model: str = "policy"
    """Who answers: `policy` (the active version), `base`, a served version such as `policy-000012`, or
    an adapter folder."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many questions to ask; all of data.num_questions where null."""
    num_in_flight: Annotated[int, Field(ge=1)] = 64
    """Questions that are asked at a time; at most what the server accepts."""
    data: DataConfig = DataConfig()
    server: ServerConfig = Field(default_factory=ServerConfig)
    rollout: RolloutConfig = RolloutConfig()
    """Its arms, samples_per_arm, max_tokens and seed."""
    reward: RewardConfig = RewardConfig()


class OfflineConfig(Section):
    """How collected rollouts are used."""

    num_epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the file; each is shuffled anew."""


class OfflineRunConfig(Section):
    """PPO from a file of rollouts, without a server.

    The length is offline.num_epochs, in steps of rollout.questions_per_step; what run, rollout and ppo
    say of steps in all, evaluation, generation and staleness is of online runs.
    """

    rollouts: Path = Path("runs/rollouts.jsonl")
    """The file: of `collect`, of a run's rollouts folder, or of the original recipe (text alone)."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many of its questions to use at most."""
    policy: PolicyConfig = PolicyConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    """The rollouts are scored again by it."""
    ppo: PPOConfig = PPOConfig()
    offline: OfflineConfig = OfflineConfig()
    run: RunConfig = RunConfig()


SECTIONS = frozenset(
    name
    for config in (TrainConfig, SFTRunConfig, CollectConfig, OfflineRunConfig)
    for name, field in config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section | RewardConfig)
)
"""Of a recipe's file: a command passes over those that are for other commands."""
