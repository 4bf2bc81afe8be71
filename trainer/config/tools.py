"""Commands about a run, a model or this machine."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic_settings import CliPositionalArg

from inference_server.wire.prompt_options import NotBlank
from inference_server.wire.settings.serve import ServeConfig
from trainer.config.base import CommandConfig, Device
from trainer.config.policy import PolicyConfig
from trainer.config.sft import SFTConfig
from trainer.config.train import TrainConfig


class DemoCommand(CommandConfig):
    """The whole path on a tiny model: base, SFT, real vLLM server, online PPO, evaluation, report.

    Needs neither network nor GPU. Works in models/tiny-base and runs/demo below the current folder.
    """

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the server; if it is taken, a free one is used."""
    num_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps of PPO, instead of those of the preset `demo`."""
    num_questions: Annotated[int, Field(ge=1)] = 400
    """Held-out questions of the evaluation."""
    keep_serving: bool = False
    """Leave the server and its playground running at the end, until Ctrl-C."""


class ReplayCommand(CommandConfig):
    """Recompute a run from its journal, without a server, and compare it with what it recorded."""

    model_config = ConfigDict(populate_by_name=True)

    run: CliPositionalArg[Path]
    """The run's folder."""
    from_step: Annotated[int, Field(ge=0, validation_alias="from")] = 0
    """Start at the newest checkpoint that is not after this step; 0 is the start of the run."""
    verify: bool = False
    """Stop at the first difference instead of continuing."""
    what_if: tuple[str, ...] = ()
    """Replay the same rollouts under another setting, such as ppo.kl_coef=0.1 or reward.credit=shared,
    and show what changes. May be given several times."""


class ReportCommand(CommandConfig):
    """Say whether RL is helping, and write RUN/report.html: verdict, curves, transcripts; of an SFT, its losses."""

    run: CliPositionalArg[Path]
    """The folder of a run, or of an SFT."""


class WatchCommand(CommandConfig):
    """Show the report of a running job in a browser of this machine, refreshed as steps are finished.

    Ctrl-C ends it and does not affect the job. Over SSH, forward the port: ssh -L 8100:127.0.0.1:8100 HOST.
    """

    run: CliPositionalArg[Path]
    """The folder of a run, or of an SFT; its first step need not be finished."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8100
    """Port on 127.0.0.1; 0 takes a free one."""


class ExportCommand(CommandConfig):
    """Export a run's policy with tokenizer, chat template and model card, to a folder or to the Hub."""

    run: CliPositionalArg[Path]
    """The run's folder."""
    to: NotBlank
    """A folder, or `hub:owner/name` for a repository of the Hub, to which HF_TOKEN must be able to write."""
    merged: bool = False
    """Write a model of its own: the adapter is added to the base's weights, in float32."""
    adapter: bool = False
    """Write the adapter alone, for PEFT and vLLM."""
    step: Annotated[int, Field(ge=0)] | None = None
    """Take the version after this step, or the one that the run returned to there; null takes the newest."""
    best: bool = False
    """Take the version with the best evaluation of run.evaluate_every."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype of the weights that --merged writes; the base model's own by default."""
    private: bool = True
    """Make a new repository of the Hub private; --no-private makes a public one."""
    force: bool = False
    """Replace the folder of an earlier export, or the files of the repository by a commit."""


class DequantizeCommand(CommandConfig):
    """Write the base model with the weights that a 4-bit policy computes with, so that it can be served."""

    inherited = {"output": "serve.model"}  # noqa: RUF012

    policy: PolicyConfig = PolicyConfig(quantization="nf4")
    """Its base_model and dtype; a policy without quantization counts as one in nf4."""
    output: Path = Path("models/dequantized")
    """Folder of the new model, which must not exist yet; serve.model of the file by default."""

    @field_validator("policy")
    @classmethod
    def _is_quantized(cls, policy: PolicyConfig) -> PolicyConfig:
        # The default of ``policy`` does not reach a table that is given.
        return policy.model_copy(update={"quantization": policy.quantization or "nf4"})


class TextModelCommand(CommandConfig):
    """Extract the language model from a model of text and images (Qwen3.5, Gemma 3), to serve and train it."""

    base_model: CliPositionalArg[NotBlank]
    """A folder, or an id of the Hub."""
    output: Path = Path("models/text-model")
    """Folder of the new model, which must not exist yet."""


Role = Literal["both", "server", "trainer"]
"""Which of the two services a machine runs."""


class DoctorConfig(TrainConfig):
    """Say whether a run of this configuration can start here; exit with code 1 if it cannot."""

    own_section = "doctor"

    serve: ServeConfig = ServeConfig()
    sft: SFTConfig = SFTConfig()
    """The memory of an SFT with these settings is planned too."""
    role: Role = "both"
    """What runs on this machine: `both` on one card, or only the `server` or the `trainer`, if they are
    on two machines and each has its card to itself."""
    ask_server: bool = True
    """Ask the server too. Turn it off (--no-ask_server) before the server is started. The role `server` asks none."""
    starts: Literal["server", "trainer"] | None = None
    """Which of the two is about to start. The doctor checks that the card has room for it beside what uses the card
    now. With `server` it leaves out what only the trainer needs. Null is the trainer with ask_server, else the server."""
    card_gib: Annotated[float, Field(gt=0)] | None = None
    """Plan for a GPU of this many GiB instead of the hardware found."""

    @property
    def device(self) -> Device:
        """Where this machine computes: run.device is the trainer's; a server takes the GPU, if any."""
        return "auto" if self.role == "server" else self.run.device

    @property
    def model(self) -> str:
        """The base model that this machine loads; a machine with the server alone loads serve.model, if it is set."""
        served = self.serve.model if self.role == "server" else None
        return served or self.policy.base_model


class TinyModelCommand(CommandConfig):
    """Write the tiny base model of the demo, from the weights that come with this project."""

    output: Path = Path("models/tiny-base")
    """Folder of the model; nothing is done if it is up to date."""
    from_scratch: bool = False
    """Train it anew, which takes 3 to 8 minutes on two cores."""
