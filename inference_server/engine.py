"""The interface between the server and an inference engine.

`inference_server.vllm.engine.VllmEngine` implements `Engine` with vLLM; the contract tests use a
hand-written one. Loads neither torch nor vllm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from inference_server.errors import EngineUnavailable
from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.schemas import FinishReason, Priority


class AdapterRejected(Exception):
    """The engine rejected an adapter and is unchanged; the message says why."""


class EngineDied(EngineUnavailable):
    """The engine is dead; the server cannot continue without it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearShape:
    """Size of one linear layer of the base model."""

    in_features: int
    out_features: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineTraits:
    """Properties of the running engine that do not change until it is restarted."""

    base_model: str
    """The model as given at start: a folder or a Hub id."""
    base_fingerprint: str | None
    """Fingerprint of its files (see `inference_server.wire.base_files`); None if they are not on disk."""
    max_model_len_tokens: int
    """Prompt and completion together."""
    max_lora_rank: int
    max_loaded_adapters: int
    """Most adapters that the engine holds; beyond that it drops the least recently used one."""
    num_replicas: int
    """Copies of the model that run side by side; each holds the adapters itself."""
    lora_dtype: str
    """The dtype to which adapter weights are rounded, by its name in torch, e.g. ``bfloat16``."""
    has_chat_template: bool
    """Whether chat prompts can be rendered."""
    opened_thought: str
    """The end of every chat prompt if the template itself begins the thought, e.g. ``<think>``; else empty."""
    linear_shapes: Mapping[str, LinearShape]
    """Linear layers of the base by module name, e.g. ``model.layers.0.self_attn.q_proj``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineAdapter:
    """One adapter as the engine identifies it."""

    lora_id: int
    """At least 1; never reused for another load, since the engine caches by it."""
    name: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How one completion is sampled."""

    temperature: float
    """0 takes the likeliest token each time."""
    top_p: float
    max_tokens: int
    seed: int | None
    stop: tuple[str, ...] = ()
    """Texts that end the completion and stay in it."""
    ends_turn: bool = False
    """Whether the chat template's end-of-turn token ends the completion, as EOS does."""
    priority: Priority = Priority.AD_HOC


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCompletion:
    """One finished completion."""

    text: str
    token_ids: Sequence[int]
    """Sampled ids, including the token that ended the completion (EOS or another) or those of the stop string."""
    logprobs: Sequence[float]
    """One per token, of the distribution that was sampled from."""
    finish_reason: FinishReason


class Engine(Protocol):
    """An engine that generates with several adapters at once.

    Every coroutine raises `EngineDied` once the engine is dead.
    """

    @property
    def traits(self) -> EngineTraits:
        """Properties that do not change while it runs."""
        ...

    async def encode(
        self, prompts: Sequence[Prompt], prompt_format: PromptFormat
    ) -> list[list[int]]:
        """Token ids of each prompt, up to the start of the answer.

        Raises:
            NoChatTemplate: A chat prompt is asked for, and the model has no template for one.
        """
        ...

    async def generate(
        self,
        prompt_token_ids: list[int],
        sampling: Sampling,
        adapter: EngineAdapter | None,
        replica: int | None,
    ) -> EngineCompletion:
        """Generates one completion, on the replica named (None: the engine's choice); cancelling the call aborts it in the engine."""
        ...

    async def load(self, adapter: EngineAdapter) -> None:
        """Loads an adapter, on every replica.

        Raises:
            AdapterRejected: A replica cannot use it; nothing changed.
        """
        ...

    async def unload(self, adapter: EngineAdapter) -> None:
        """Unloads an adapter."""
        ...

    async def loaded_ids(self) -> set[int]:
        """Asks for the ``lora_id`` of every adapter that all replicas hold."""
        ...

    def num_requests(self, adapter: EngineAdapter | None = None) -> int:
        """Number of unfinished requests of all routes, on one adapter or in total."""
        ...

    def publish(self, name: str, adapter: EngineAdapter) -> None:
        """Serves an adapter under ``name`` in the OpenAI routes, starting with the next request."""
        ...

    def withdraw(self, name: str) -> None:
        """Stops serving ``name``; requests in flight keep their adapter."""
        ...
