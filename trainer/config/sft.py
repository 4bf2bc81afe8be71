"""Supervised fine-tuning."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from inference_server.wire.prompt_options import PromptFormatChoice
from inference_server.wire.settings.model import SettingsModel
from regime_w import build_all_arms
from trainer.config.base import CommandConfig, Device
from trainer.config.data import DataConfig
from trainer.config.policy import PolicyConfig
from trainer.config.rollout import Arms
from trainer.config.run import TrackerName


class SFTConfig(SettingsModel):
    """How the demonstrations are imitated."""

    num_examples: Annotated[int, Field(ge=1)] = 2_000
    """Most demonstrations to use, which are the first of the source."""
    num_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the demonstrations."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Learning rate of AdamW, decayed to zero along a cosine."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Demonstrations of one optimizer step (with packing: packed rows)."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Demonstrations (with packing: packed rows) of one forward pass; must divide batch_size. Null takes as many as
    token_budget allows (with packing: one)."""
    token_budget: Annotated[int, Field(ge=1)] = 2_048
    """Most tokens of one forward pass, padding included, if micro_batch_size is null. It limits memory and does not
    change the gradient."""
    packing: bool = False
    """Put several demonstrations into each row of packed_row_tokens tokens; none attends to another."""
    packed_row_tokens: Annotated[int, Field(ge=1)] = 2_048
    """Length of a packed row, in tokens; a longer demonstration is cut into several rows."""
    num_evaluation_examples: Annotated[int, Field(ge=0)] = 200
    """How many held-out questions of data.evaluation_source are used to measure the loss of their solutions; 0
    measures none."""
    evaluate_every: Annotated[int, Field(ge=1)] = 50
    """Steps between measurements of the held-out loss; the last step always has one."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 50
    """Steps between checkpoints to resume from."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the mixture of arms and of the shuffle; below 2^32, as NumPy requires."""

    @model_validator(mode="after")
    def _micro_batches_fill_a_batch(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"sft.micro_batch_size = {self.micro_batch_size} does not divide "
                f"sft.batch_size = {self.batch_size}"
            )
        return self

    def examples_per_pass(self, longest_tokens: int) -> int:
        """Number of demonstrations in one forward pass, which divides the batch size.

        Args:
            longest_tokens: Tokens of the longest demonstration, to which the others are padded.
        """
        if self.micro_batch_size is not None or self.packing:
            return self.micro_batch_size or 1
        fitting = max(1, self.token_budget // longest_tokens)
        return max(
            n for n in range(1, min(fitting, self.batch_size) + 1) if not self.batch_size % n
        )


class SFTRunConfig(CommandConfig):
    """Supervised fine-tuning of a LoRA adapter on demonstrations, under the arms' prompts."""

    inherited = {  # noqa: RUF012
        "arms": "rollout.arms",
        "prompt_format": "rollout.prompt_format",
        "trackers": "run.trackers",
    }

    policy: PolicyConfig = PolicyConfig()
    data: DataConfig = DataConfig()
    """`word-problems` has careless demonstrations of its own; of other sources the answers are imitated."""
    sft: SFTConfig = SFTConfig()
    arms: Arms = Field(default_factory=build_all_arms)
    """Arms whose prompts the demonstrations are trained under; rollout.arms by default."""
    prompt_format: PromptFormatChoice = "auto"
    """`chat` puts the demonstrations into the model's chat template, `plain` joins prompt and solution as
    text; `auto` is `chat` if the model's tokenizer has a template, else `plain`. rollout.prompt_format by default."""
    output: Path = Path("runs/sft")
    """Folder of the adapter, and of the checkpoints while it is trained."""
    device: Device = "auto"
    """Where to compute."""
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where the losses go in addition to the metrics.jsonl of the output; run.trackers by default."""

    @property
    def starting_adapter(self) -> Path | None:
        """``policy.adapter``, unless it is the output: a file may name there what SFT writes for PPO to start from."""
        adapter = self.policy.adapter
        if adapter is None or os.path.realpath(adapter) == os.path.realpath(self.output):
            return None
        return adapter
