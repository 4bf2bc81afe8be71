"""The HTTP bodies that trainer and server exchange; loads neither torch nor vllm. Version None is the base."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.adapters.references import PolicyReference
from inference_server.wire.bodies import RequestBody, ResponseBody
from inference_server.wire.prompt_options import (
    Choices,
    PromptFormat,
    PromptFormatChoice,
    QuestionText,
    StopStrings,
)
from regime_w import ArmSpec, build_all_arms
from regime_w.answer_types.answer_type import AnswerTypeName

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
MAX_QUESTIONS = 4096
MAX_ARMS = 64
MIN_TEMPERATURE = 0.01  # of an arm: vLLM raises lower ones to this, and would not sample as asked
MAX_REPLICAS = 1024
TokenId = Annotated[int, Field(ge=0)]  # the vocabulary's size is not known here
_Count = Annotated[StrictInt, Field(ge=1, lt=2**63)]


def _is_none(value: object) -> bool:
    return value is None


def adapter_name(version: int) -> str:
    """The name under which vLLM serves a version, e.g. ``policy-000012``; never reused."""
    return f"policy-{version:06d}"


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    """EOS, another token that ends a turn, or a stop string was sampled: the completion is terminal."""
    LENGTH = "length"
    """``max_tokens`` or the context length was reached: truncated, not terminal."""
    ABORT = "abort"
    """The engine aborted the request; never train on it."""


class Priority(StrEnum):
    """Which requests the engine schedules first when it cannot run all."""

    AD_HOC = "ad_hoc"
    """A person waits for the answer: scheduled ahead of rollouts."""
    ROLLOUT = "rollout"


class Question(RequestBody):
    """One question; the fields after ``question`` are read only if the request sets ``score``."""

    id: str = Field(min_length=1, max_length=256)
    question: QuestionText
    gold: str | None = Field(default=None, max_length=65_536)
    answer_type: AnswerTypeName = "number"
    choices: Choices = ()
    """The choices' texts, which ``question`` shows too; for the type ``choice``."""


class ArmsRequest(RequestBody):
    """Body of ``POST /v1/arms/generate``."""

    questions: list[Question | QuestionText] = Field(
        min_length=1, max_length=MAX_QUESTIONS, fail_fast=True
    )
    """Questions, or plain strings (which get the ids ``q0``, ``q1``, …)."""
    arms: Annotated[list[str | ArmSpec], Field(max_length=MAX_ARMS, fail_fast=True)] | None = None
    """Arm names, full specs, or null for the eight arms of Regime W."""
    samples_per_arm: _Count = 1
    max_tokens: _Count = 256
    seed: StrictInt | None = Field(default=None, ge=0, lt=2**63)
    """Null costs nothing: the engine then makes no generator per request."""
    policy: PolicyReference = "latest"
    """``latest`` is the version that is active when a group starts."""
    prompt_format: PromptFormatChoice = "auto"
    stop: StopStrings = ()
    greedy: StrictBool = False
    """Whether to take the likeliest token each time, whatever the arms' temperature and top_p."""
    return_tokens: StrictBool = True
    """Whether to return token ids and logprobs with the text."""
    score: StrictBool = False
    """Whether to return each group's Regime W scores and consensus answer."""
    stream: StrictBool = False
    """Whether to send each group when it is finished, as a line of NDJSON."""
    priority: Priority = Priority.AD_HOC
    replica: StrictInt | None = Field(default=None, ge=0, lt=MAX_REPLICAS)
    """Which of `ServerStatus.num_replicas` answers, from 0; null picks the least loaded one for each group."""
    timeout_s: StrictFloat | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time limit for the whole request, in seconds; null, or a higher one than the server's, means the server's."""

    @property
    def identified_questions(self) -> list[Question]:
        """The questions; a plain string gets its index as its id, such as ``q0``."""
        return [
            Question(id=f"q{index}", question=question) if isinstance(question, str) else question
            for index, question in enumerate(self.questions)
        ]

    @property
    def arm_names(self) -> list[str]:
        """The names of the arms that each question goes to."""
        arms = build_all_arms() if self.arms is None else self.arms
        return [arm if isinstance(arm, str) else arm.name for arm in arms]


MAX_LOGPROB = 1e-3
"""Nats by which rounding can lift the logprob of a token of probability 1 above 0."""


class ArmCompletion(ResponseBody):
    """One completion of one arm."""

    arm: str
    sample: int = Field(ge=0)
    text: str
    """The completion without the prompt, but with the ``<think>`` that a template began it with."""
    finish_reason: FinishReason
    temperature: float = Field(ge=0, allow_inf_nan=False)
    top_p: float = Field(gt=0, le=1, allow_inf_nan=False)
    seed: int | None
    prompt_token_ids: list[TokenId]
    token_ids: list[TokenId]
    """Sampled ids, including the token or the stop string that ended the completion."""
    logprobs: list[float]
    """One per token, of the sampling distribution: after temperature and top-p."""


class GroupScoresBody(ResponseBody):
    """Regime W scores of a group, present if the request set ``score``."""

    s_end: float | None
    s_path: float | None
    s_cf: float | None
    s_wm: float | None
    answers: list[str | None]
    """Canonical answer of each completion; null if it gives none."""
    consensus: str | None
    """The most frequent answer (the earlier of two equally frequent); null if there is no answer."""
    correct: list[bool] | None
    """One per completion; null if the question has no gold answer."""


class ArmGroup(ResponseBody):
    """All arms of one question, generated by one version from start to end."""

    id: str
    question: str
    policy_version: int | None
    arms: list[ArmCompletion]
    replica: int | None = Field(default=None, exclude_if=_is_none)
    """Which of the server's several replicas generated it."""
    prompt_format: PromptFormat | None = None
    """How its prompts were rendered; None in rollouts that do not say."""
    stop: StopStrings = ()
    scores: GroupScoresBody | None = None


class Usage(ResponseBody):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int


class ArmsResponse(ResponseBody):
    """Response body of ``POST /v1/arms/generate``."""

    policy_version: int | None
    """The version of every group; the newest of them if the policy moved during the request."""
    boot_id: str
    groups: list[ArmGroup]
    usage: Usage


class Limits(ResponseBody):
    """Limits of the server."""

    max_model_len_tokens: int
    max_lora_rank: int
    max_groups_in_flight: int
    """For each priority."""
    max_questions: int
    max_samples_per_arm: int
    max_completions: int
    """In one request."""
    max_adapter_bytes: int
    max_body_bytes: int
    max_loaded_versions: int
    max_request_s: float


class ServerStatus(ResponseBody):
    """Body of ``GET /v1/status``."""

    boot_id: str
    """New at every start of the server."""
    base_model: str
    base_fingerprint: str | None = None
    """Fingerprint of the base model's files, see `inference_server.wire.base_files`; None if not on disk."""
    base_dtype: str
    """The dtype to which the engine rounds adapter weights, e.g. ``float32``."""
    has_chat_template: bool
    """Whether it can render ``chat`` prompts."""
    num_replicas: int = Field(default=1, ge=1, le=MAX_REPLICAS)
    """Copies of the model that answer side by side, each with all versions of its own (data parallelism)."""
    active_version: int | None
    next_version: int
    """The lowest number above all that were ever used: free for the next upload."""
    versions: list[AdapterInfo]
    groups_in_flight: int
    requests_in_flight: int
    """Unfinished completions of all routes."""
    limits: Limits

    def sha256_of(self, version: int | None) -> str | None:
        """Digest of a version's weights; None for the base (None) and for a version that is not loaded."""
        return next((held.sha256 for held in self.versions if held.version == version), None)
