"""The server in process: an app around the fake engine, and clients of it."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import httpx
import torch
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from safetensors.torch import save
from starlette.types import Message

from inference_server.adapters.tidying import TIDYING_TASK
from inference_server.http.routes import attach_routes
from inference_server.service import Service
from inference_server.settings import Settings
from tests.contract.fake_engine import LAYERS, WAIT_S, FakeEngine


async def started_app(
    engine: FakeEngine, settings: Settings, app: FastAPI | None = None
) -> FastAPI:
    """An app whose service runs on `engine` and restores what is in the state folder.

    ``app`` may have routes of its own; by default it is a new one.
    """
    app = app or FastAPI()
    attach_routes(app, settings)
    app.state.regime_w = await Service.start(engine, settings, CollectorRegistry())
    return app


class Client(httpx.AsyncClient):
    """Sends requests to an app in process; its methods are named after the routes."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")

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
    """Waits until the registry has retired what it can."""
    await asyncio.gather(*(t for t in asyncio.all_tasks() if t.get_name() == TIDYING_TASK))


def adapter_config(**changes: Any) -> dict[str, Any]:
    """The part of PEFT 0.21's adapter_config.json that matters here."""
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


class Connection:
    """One arms request over bare ASGI: shows what was sent so far, and can disconnect."""

    def __init__(
        self,
        app: FastAPI,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        query: bytes = b"",
    ) -> None:
        self.sent: list[Message] = []
        self._gone = asyncio.Event()
        self._messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/arms/generate",
            "query_string": query,
            "headers": [(b"content-type", b"application/json"), *headers],
            "http_version": "1.1",
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._messages:
            return self._messages.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self._gone.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0)


class Restart(Protocol):
    """Starts a server anew on the same state folder, with an engine that holds no adapters."""

    async def __call__(
        self, engine: FakeEngine | None = None, **changes: Any
    ) -> tuple[Client, FakeEngine]: ...
