"""The server's routes in process, around a hand-written engine."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from safetensors.torch import save

from inference_server.adapters import registry, versions
from inference_server.engine import (
    AdapterRejected,
    Chat,
    EngineAdapter,
    EngineCompletion,
    EngineDied,
    EngineTraits,
    LinearShape,
    NoChatTemplate,
    Sampling,
)
from inference_server.http.routes import attach_routes
from inference_server.service import Service
from inference_server.settings import Settings
from inference_server.wire.schemas import FinishReason

LAYERS = {
    "model.layers.0.self_attn.q_proj": LinearShape(in_features=16, out_features=16),
    "model.layers.0.mlp.down_proj": LinearShape(in_features=32, out_features=16),
}


class FakeEngine:
    """Speaks the letters of a digest: what it says depends on prompt, sampling and adapter alone."""

    def __init__(self, max_loaded_adapters: int = 3) -> None:
        self.traits = EngineTraits(
            base_model="fake/base",
            base_fingerprint="0123456789abcdef",
            max_model_len_tokens=600,
            max_lora_rank=8,
            max_loaded_adapters=max_loaded_adapters,
            lora_dtype="float16",
            linear_shapes=LAYERS,
        )
        self.loaded: dict[int, EngineAdapter] = {}
        self.all_lora_ids: list[int] = []
        self.served: dict[str, EngineAdapter] = {}
        self.in_flight: Counter[str] = Counter()
        self.num_aborted = 0
        self.num_encoded = 0
        self.reject: str | None = None
        self.break_completion: Callable[[EngineCompletion], EngineCompletion] = lambda completion: (
            completion
        )
        self.hangs = False
        self.dead = False
        self.has_chat_template = True
        self.samplings: list[Sampling] = []
        self.open = asyncio.Event()
        """Completions end only while it is set."""
        self.open.set()

    async def reaches(self, num_requests: int, name: str | None = None) -> None:
        """Waits until so many requests are in flight, on one adapter or over all."""
        async with asyncio.timeout(5):
            while num_requests != self._num_in_flight(name):  # noqa: ASYNC110
                await asyncio.sleep(0)

    def _num_in_flight(self, name: str | None) -> int:
        return self.in_flight.total() if name is None else self.in_flight[name]

    async def encode(self, texts: Sequence[str]) -> list[list[int]]:
        self.num_encoded += len(texts)
        return [list(text.encode()) for text in texts]

    async def encode_chats(self, chats: Sequence[Chat]) -> list[list[int]]:
        if not self.has_chat_template:
            raise NoChatTemplate("there is none")
        return await self.encode([f"<{c.system_prompt}>{c.question}:" for c in chats])

    async def generate(
        self, prompt_token_ids: list[int], sampling: Sampling, adapter: EngineAdapter | None
    ) -> EngineCompletion:
        if self.dead:
            raise EngineDied("it was killed")
        self.samplings.append(sampling)
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


class Client(httpx.AsyncClient):
    """Requests to the app, in the words of the contract."""

    async def arms(self, **body: Any) -> httpx.Response:
        return await self.post("/v1/arms/generate", json={"questions": ["1+1?"], **body})

    async def put_adapter(
        self,
        version: int,
        *,
        config: dict[str, Any] | bytes | None = None,
        weights: dict[str, torch.Tensor] | bytes | None = None,
        sha256: str | None = None,
        params: dict[str, Any] | None = None,
    ) -> httpx.Response:
        config = adapter_config() if config is None else config
        weights = adapter_weights() if weights is None else weights
        config_bytes = config if isinstance(config, bytes) else json.dumps(config).encode()
        weights_bytes = weights if isinstance(weights, bytes) else save(weights)
        response = await self.put(
            f"/v1/adapters/{version}",
            files={
                "adapter_config.json": config_bytes,
                "adapter_model.safetensors": weights_bytes,
            },
            data={"sha256": sha256 or hashlib.sha256(weights_bytes).hexdigest()},
            params=params,
        )
        await tidied()
        return response


async def tidied() -> None:
    """Waits until nothing goes on beside the requests of clients."""
    this = asyncio.current_task()
    tidying = [
        task
        for task in asyncio.all_tasks()
        if task is not this and task.get_name() == registry.TIDYING_TASK
    ]
    await asyncio.gather(*tidying)


def adapter_config(**changes: Any) -> dict[str, Any]:
    """What PEFT 0.21 writes, shortened."""
    return {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "bias": "none",
        "lora_bias": False,
        "use_dora": False,
        "use_rslora": False,
        "use_qalora": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "lora_dropout": 0.0,
        "inference_mode": True,
        **changes,
    }


def adapter_weights(seed: int = 0, rank: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in LAYERS.items():
        prefix = f"base_model.model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(
            rank, layer.in_features, generator=generator
        )
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(
            layer.out_features, rank, generator=generator
        )
    return tensors


@pytest.fixture
def make() -> SimpleNamespace:
    """Makers of good adapters, for tests that change them into bad ones."""
    return SimpleNamespace(config=adapter_config, weights=adapter_weights)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        model="fake/base",
        state_dir=tmp_path,
        max_loaded_versions=3,
        max_adapter_bytes=100_000,
        max_questions=3,
        max_samples_per_arm=2,
        max_groups_in_flight=4,
    )


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server puts off for some moments is done at once."""
    monkeypatch.setattr(registry, "_TIDY_AFTER_S", 0)
    monkeypatch.setattr(versions, "_LOOKUP_GRACE_S", 0)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def service(engine: FakeEngine, settings: Settings) -> Service:
    service = await Service.start(engine, settings, CollectorRegistry())
    engine.samplings.clear()  # the warm-up
    return service


@pytest.fixture
def app(service: Service, settings: Settings) -> FastAPI:
    app = FastAPI()
    attach_routes(app, settings)
    app.state.regime_w = service
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[Client]:
    transport = httpx.ASGITransport(app)
    async with Client(transport=transport, base_url="http://server") as client:
        yield client
