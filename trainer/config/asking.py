"""The configurations of the commands that ask a running server, and of `diff`, which compares the answers."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg

from inference_server.wire.adapters.references import NUM_VERSIONS
from inference_server.wire.prompt_options import Choices, NotBlank, PromptFormatChoice, StopStrings
from regime_w import ArmSpec, build_all_arms
from regime_w.answer_types.answer_type import AnswerTypeName
from trainer.config.base import CommandConfig, Seed
from trainer.config.data import ChoicesColumn, DataConfig, RecordShape
from trainer.config.rollout import Arms, RewardSettings, RolloutConfig
from trainer.config.server import ServerConfig


class CollectConfig(CommandConfig):
    """Rollouts over all arms into a JSONL file; started again, it resumes where it stopped."""

    own_section = "collect"

    output: Path = Path("runs/rollouts.jsonl")
    """The file; `.gz` and `.zst` compress it."""
    model: NotBlank = "policy"
    """Who answers: `policy` (the version that is active at the start), `base`, a served version such as
    `policy-000012`, an adapter folder, or a run's folder, which stands for its newest adapter. A file holds rows of one
    policy: once it stands for other weights, resuming is refused."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many questions to ask; null asks all of data.num_questions."""
    num_in_flight: Annotated[int, Field(ge=1)] = 64
    """How many questions are asked at the same time; at most what the server accepts."""
    data: DataConfig = DataConfig()
    server: ServerConfig = Field(default_factory=ServerConfig)
    rollout: RolloutConfig = RolloutConfig()
    """Its arms, samples_per_arm, max_tokens, prompt_format, stop and seed."""
    reward: RewardSettings = RewardSettings()


class EvaluationConfig(CommandConfig):
    """Accuracy of several models of a running server on the same held-out questions."""

    own_section = "eval"
    inherited = {  # noqa: RUF012
        "data": "data.evaluation_source",
        "data_seed": "data.seed",
        "data_question": "data.question",
        "data_answer": "data.answer",
        "data_answer_type": "data.answer_type",
        "data_choices": "data.choices",
        "train_data": "data.source",
        "max_tokens": "rollout.max_tokens",
        "arms": "rollout.arms",
        "prompt_format": "rollout.prompt_format",
        "stop": "rollout.stop",
    }

    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("Base=base",)
    """The models, each as LABEL=WHAT. WHAT is `base`, `policy` (the active version), a served version such
    as `policy-000012`, an adapter folder, or a run's folder, which stands for its newest adapter."""
    data: NotBlank = "word-problems"
    """Held-out questions: `word-problems` or `one-step-problems` (their held-out split), a file of {"question",
    "answer"} records (JSON lines, a list in JSON, CSV, TSV or Parquet), or a Hub dataset such as `openai/gsm8k:main` (its
    test split); SOURCE#held_out is a part of a source. By default data.evaluation_source of the file, or else of the
    run that the models belong to."""
    data_seed: Seed = 0
    """Seed of the built-in generator; data.seed of the file by default."""
    data_question: NotBlank = "question"
    """Column with the question. By default data.question of the file, or else of the run if its data is asked; the next
    three keys have the same rule."""
    data_answer: NotBlank = "answer"
    """Column with the right answer."""
    data_answer_type: AnswerTypeName = "number"
    """Type of the answers: `number`, `choice`, `text` or `math`."""
    data_choices: ChoicesColumn = None
    """Column with the list of the choices' texts."""
    train_data: NotBlank | None = None
    """Questions that the models were trained on, to report which of them are asked here too. By default data.source of
    the file, or else of the configurations beside adapter folders."""
    num_questions: Annotated[int, Field(ge=1)] = 400
    """Most questions to ask."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest completion, in tokens. If neither a flag nor the file gives them, max_tokens, arms, prompt_format and
    stop are those of the run that the models belong to."""
    arms: Arms = Field(default_factory=build_all_arms)
    """Arms to ask. By default rollout.arms of the file, or else of the run, or else the eight of Regime W."""
    prompt_format: PromptFormatChoice = "auto"
    """`chat` (the model's chat template), `plain`, or `auto`: `chat` if the model has a template. By default
    rollout.prompt_format of the file, or else of the run."""
    stop: StopStrings = ()
    """Texts that end a completion. By default rollout.stop of the file, or else of the run."""
    arm: str | None = None
    """The arm whose system prompt the greedy answers have; its temperature is not used. Null takes the first of
    arms, as run.evaluate_every does."""
    samples_per_arm: Annotated[int, Field(ge=0)] = 0
    """Completions of every arm, for accuracy by arm, pass@k, the consensus and coherence. 0 asks only for greedy
    answers, which takes a ninth of the time of 1."""
    seed: Seed = 0
    """Seed of the arms' sampling."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Questions of one request."""
    server: ServerConfig = Field(default_factory=ServerConfig)
    output: Path | None = None
    """JSON file for the result. The answers go beside it: evaluation.json gets
    evaluation.answers.jsonl. RUN/evaluation.json is shown in RUN's report."""

    @model_validator(mode="after")
    def _shape_is_possible(self) -> Self:
        _ = self.data_shape
        return self

    @property
    def greedy_arm(self) -> ArmSpec:
        """The arm whose system prompt the greedy answers have.

        Raises:
            KeyError: `arm` is not one of `arms`.
        """
        return self.arms[0] if self.arm is None else {arm.name: arm for arm in self.arms}[self.arm]

    @property
    def data_shape(self) -> RecordShape:
        """The columns of the data, and the type of its answers."""
        return RecordShape(
            question=self.data_question,
            answer=self.data_answer,
            choices=self.data_choices,
            answer_type=self.data_answer_type,
            key_prefix="--data_",
        )


class DiffCommand(CommandConfig):
    """Show the questions on which two evaluated models differ, side by side."""

    evaluation: CliPositionalArg[Path]
    """The file that `eval --output` wrote, or the run's folder that holds it."""
    baseline: CliPositionalArg[str | None] = None
    """Label of the first model; the one evaluated before the second, by default."""
    model: CliPositionalArg[str | None] = None
    """Label of the second; the one evaluated last, by default."""
    limit: Annotated[int, Field(ge=0)] = 5
    """Most questions to show of those that the second model wins, and as many of those that it loses."""


class SampleConfig(CommandConfig):
    """Ask one question of every arm of a running server."""

    inherited = {  # noqa: RUF012
        "answer_type": "data.answer_type",
        "max_tokens": "rollout.max_tokens",
        "arms": "rollout.arms",
        "prompt_format": "rollout.prompt_format",
        "stop": "rollout.stop",
    }

    question: CliPositionalArg[NotBlank]
    """The question."""
    gold: str | None = None
    """The right answer, to see which arms found it."""
    answer_type: AnswerTypeName = "number"
    """What the answer is: `number`, `choice`, `text` or `math`; data.answer_type of the file by default."""
    choices: Choices = ()
    """The choices' texts, which are put below the question as A) to Z), for answer_type = choice."""
    version: Annotated[int, Field(ge=0, lt=NUM_VERSIONS)] | None = None
    """Policy version to ask; null asks the active one."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest completion, in tokens; rollout.max_tokens of the file by default."""
    arms: Arms = Field(default_factory=build_all_arms)
    """Arms to ask. By default rollout.arms of the file, or else the eight of Regime W."""
    prompt_format: PromptFormatChoice = "auto"
    """`chat` (the model's chat template), `plain`, or `auto`: `chat` if the model has a template. By default
    rollout.prompt_format of the file."""
    stop: StopStrings = ()
    """Texts that end a completion; rollout.stop of the file by default."""
    seed: Seed | None = None
    """Seed of the sampling."""
    server: ServerConfig = Field(default_factory=ServerConfig)
