"""A hand-written engine behind the server's `Engine` protocol; it needs no model."""

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from inference_server.adapters.probe import PROBE
from inference_server.engine import (
    AdapterRejected,
    EngineAdapter,
    EngineCompletion,
    EngineDied,
    EngineTraits,
    LinearShape,
    Sampling,
)
from inference_server.wire.prompt_frames import NoChatTemplate, Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.schemas import FinishReason
from regime_w import build_prompt

# Far longer than any wait takes, so that a busy machine does not fail a test.
WAIT_S = 60

LAYERS = {
    "model.layers.0.self_attn.q_proj": LinearShape(in_features=16, out_features=16),
    "model.layers.0.mlp.down_proj": LinearShape(in_features=32, out_features=16),
}


class FakeEngine:
    """Returns bytes of a digest as tokens, which depend only on prompt, sampling and adapter."""

    def __init__(self, max_loaded_adapters: int = 3) -> None:
        self.traits = EngineTraits(
            base_model="fake/base",
            base_fingerprint="0123456789abcdef",
            max_model_len_tokens=600,
            max_lora_rank=8,
            max_loaded_adapters=max_loaded_adapters,
            lora_dtype="float16",
            num_replicas=1,
            has_chat_template=False,
            opened_thought="",
            linear_shapes=LAYERS,
        )
        self.loaded: dict[int, EngineAdapter] = {}
        self.all_lora_ids: list[int] = []
        self.served: dict[str, EngineAdapter] = {}
        self.in_flight: Counter[str] = Counter()
        self.num_aborted = 0
        self.num_encoded = 0
        self.reject: str | None = None
        self.first_completion = EngineCompletion(
            text="!", token_ids=[0], logprobs=[-1.0], finish_reason=FinishReason.LENGTH
        )
        """What every adapter completes when the server probes it."""
        self.break_completion: Callable[[EngineCompletion], EngineCompletion] = lambda completion: (
            completion
        )
        self.hangs = False
        self.dead = False
        self.samplings: list[Sampling] = []
        self.replicas: list[int | None] = []
        """The replica that was asked for each of `samplings`."""
        self.probed: list[int | None] = []
        self.num_probes = 0
        """Probes in flight."""
        self.probes_end = asyncio.Event()
        """While it is not set, probes do not end, except those of the spoilt replica."""
        self.probes_end.set()
        self.spoilt_replica: int | None = None
        """Its first completion of an adapter has a logprob that is not finite."""
        self.open = asyncio.Event()
        """While it is not set, completions do not finish."""
        self.open.set()

    async def reaches(self, num_requests: int, name: str | None = None) -> None:
        """Waits until exactly ``num_requests`` are in flight, on one adapter or in total."""
        async with asyncio.timeout(WAIT_S):
            while num_requests != self._num_in_flight(name):  # noqa: ASYNC110
                await asyncio.sleep(0)

    def _num_in_flight(self, name: str | None) -> int:
        return self.in_flight.total() if name is None else self.in_flight[name]

    def has_replicas(self, num_replicas: int) -> None:
        self.traits = replace(self.traits, num_replicas=num_replicas)

    def has_template(self) -> None:
        self.traits = replace(self.traits, has_chat_template=True)

    async def encode(
        self, prompts: Sequence[Prompt], prompt_format: PromptFormat
    ) -> list[list[int]]:
        self.num_encoded += len(prompts)
        if prompt_format == "plain":
            texts = [build_prompt(prompt.system_prompt, prompt.question) for prompt in prompts]
        elif self.traits.has_chat_template:
            texts = [f"<{prompt.system_prompt}>{prompt.question}:" for prompt in prompts]
        else:
            raise NoChatTemplate("there is none")
        return [list(text.encode()) for text in texts]

    async def generate(
        self,
        prompt_token_ids: list[int],
        sampling: Sampling,
        adapter: EngineAdapter | None,
        replica: int | None,
    ) -> EngineCompletion:
        if self.dead:
            raise EngineDied("it was killed")
        if sampling is PROBE:
            assert adapter is not None
            assert adapter.lora_id in self.loaded
            assert adapter not in self.served.values(), "served before it was tried"
            self.probed.append(replica)
            if replica == self.spoilt_replica:
                return replace(self.first_completion, logprobs=[math.nan])
            self.num_probes += 1
            try:
                await self.probes_end.wait()
            finally:
                self.num_probes -= 1
            return self.first_completion
        self.samplings.append(sampling)
        self.replicas.append(replica)
        name = "" if adapter is None else adapter.name
        if adapter is not None:
            assert adapter.lora_id in self.loaded
            assert adapter.path.is_dir()
        self.in_flight[name] += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.num_aborted += 1
            raise
        finally:
            self.in_flight[name] -= 1
        if adapter is not None:
            assert adapter.lora_id in self.loaded, "unloaded while in use"
        said = hashlib.sha256(repr((prompt_token_ids, sampling, name)).encode()).digest()[:8]
        return self.break_completion(
            EngineCompletion(
                text=f"I say {said.hex()}\n#### {said[0]}",
                token_ids=list(said),
                logprobs=[-byte / 256 for byte in said],
                finish_reason=FinishReason.STOP,
            )
        )

    async def load(self, adapter: EngineAdapter) -> None:
        if self.reject is not None:
            raise AdapterRejected(self.reject)
        assert adapter.lora_id not in self.all_lora_ids, "a lora_id came back"
        assert len(self.loaded) < self.traits.max_loaded_adapters, (
            "the engine would drop an adapter"
        )
        self.all_lora_ids.append(adapter.lora_id)
        self.loaded[adapter.lora_id] = adapter

    async def unload(self, adapter: EngineAdapter) -> None:
        assert not self.num_probes, "a probe would have it loaded again"
        del self.loaded[adapter.lora_id]

    async def loaded_ids(self) -> set[int]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.dead:
            raise EngineDied("it was killed")
        return set(self.loaded)

    def num_requests(self, adapter: EngineAdapter | None = None) -> int:
        return self._num_in_flight(None if adapter is None else adapter.name)

    def publish(self, name: str, adapter: EngineAdapter) -> None:
        self.served[name] = adapter

    def withdraw(self, name: str) -> None:
        self.served.pop(name, None)
