"""What the routes need of an inference engine.

`Engine` is the seam between our code and vLLM: `vllm_engine.VllmEngine` is the real one, and the
contract tests put a hand-written one in its place. Loads neither torch nor vllm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from inference_server.wire.schemas import FinishReason, Priority


class AdapterRejected(Exception):
    """The engine refused an adapter and is as it was before; the message says why."""


class EngineDied(Exception):
    """The engine is dead, and with it the server."""


class NoChatTemplate(Exception):
    """The model's tokenizer has no chat template, or one that does not take these messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearShape:
    """Size of one linear layer of the base model."""

    in_features: int
    out_features: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineTraits:
    """Facts of the running engine that do not change until it is started again."""

    base_model: str
    """The model as it was named at start: a folder or a Hub id."""
    base_fingerprint: str | None
    """Of its files, see `inference_server.wire.base_fingerprint`."""
    max_model_len_tokens: int
    """Prompt and completion together."""
    max_lora_rank: int
    max_loaded_adapters: int
    """Adapters that the engine holds before it drops the least recently used by itself."""
    lora_dtype: str
    """The dtype to which adapter weights are rounded, a name in torch, e.g. ``bfloat16``."""
    linear_shapes: Mapping[str, LinearShape]
    """Linear layers of the base by module name, e.g. ``model.layers.0.self_attn.q_proj``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineAdapter:
    """One adapter as the engine knows it."""

    lora_id: int
    """At least 1, and never used for another load: the engine caches by it."""
    name: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """What one arm says to the model before it answers."""

    system_prompt: str
    """No system message where empty."""
    question: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How one completion is sampled."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None
    priority: Priority = Priority.AD_HOC


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One finished completion."""

    text: str
    token_ids: Sequence[int]
    """Sampled ids, EOS included when it was sampled."""
    logprobs: Sequence[float]
    """Per token, of the distribution that was sampled from."""
    finish_reason: FinishReason


class Engine(Protocol):
    """An engine that generates with many adapters at once.

    Every method that is awaited raises `EngineDied` once the engine is dead.
    """

    @property
    def traits(self) -> EngineTraits:
        """What does not change while it runs."""
        ...

    async def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the special tokens that the tokenizer adds by default."""
        ...

    async def encode_chats(self, chats: Sequence[Chat]) -> list[list[int]]:
        """Token ids of each chat through the model's template, up to where the answer begins.

        Raises:
            NoChatTemplate: The model has none that fits.
        """
        ...

    async def generate(
        self, prompt_token_ids: list[int], sampling: Sampling, adapter: EngineAdapter | None
    ) -> Completion:
        """Generates one completion; cancelling the call aborts it in the engine."""
        ...

    async def load(self, adapter: EngineAdapter) -> None:
        """Loads an adapter for requests to come.

        Raises:
            AdapterRejected: The engine cannot use it; nothing changed.
        """
        ...

    async def unload(self, adapter: EngineAdapter) -> None:
        """Drops a loaded adapter."""
        ...

    async def loaded_ids(self) -> set[int]:
        """Asks the engine itself for the ``lora_id`` of every adapter that it holds."""
        ...

    def num_requests(self, adapter: EngineAdapter | None = None) -> int:
        """Unfinished requests from any route, on one adapter or over all."""
        ...

    def publish(self, name: str, adapter: EngineAdapter) -> None:
        """Serves an adapter under ``name`` in the OpenAI routes, from the next request on."""
        ...

    def withdraw(self, name: str) -> None:
        """Stops serving ``name``; requests in flight keep their adapter."""
        ...
