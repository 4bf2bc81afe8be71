"""A proxy in front of a real server that breaks one promise, and hides it as well as it can."""

import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from safetensors.torch import load, save
from starlette.datastructures import UploadFile

from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from regime_w import build_all_arms


class Saboteur:
    """Passes everything on; a subclass changes pushed weights, or arms and completions from the second push on."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._pushed: list[bytes] = []
        self._claimed: dict[str, str] = {}
        """The digest that the trainer sent for each version, by the version's path."""
        self.app = FastAPI(lifespan=self._connected)
        self.app.put("/v1/adapters/{version}")(self._push)
        self.app.post("/v1/arms/generate")(self._generate)
        self.app.api_route("/{path:path}", methods=["GET", "POST", "DELETE"])(self._pass)

    def weights(self, pushed: list[bytes]) -> bytes:
        """The weights to serve in place of the last of ``pushed``."""
        return pushed[-1]

    def arm(self, arm: dict[str, Any]) -> None:
        """Change an arm of a request."""

    def completion(self, completion: dict[str, Any]) -> None:
        """Change a completion of an answer."""

    @asynccontextmanager
    async def _connected(self, app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=self._upstream, timeout=100) as self._http:
            yield

    async def _push(self, request: Request) -> Response:
        files = {}
        async with request.form() as form:
            for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
                part = form[name]
                assert isinstance(part, UploadFile)
                files[name] = await part.read()
            self._claimed[request.url.path] = str(form["sha256"])
        self._pushed.append(files[ADAPTER_WEIGHTS_FILE])
        files[ADAPTER_WEIGHTS_FILE] = self.weights(self._pushed)
        answer = await self._http.put(
            request.url.path,
            params=dict(request.query_params),
            files=files,
            data={"sha256": hashlib.sha256(files[ADAPTER_WEIGHTS_FILE]).hexdigest()},
        )
        return self._answer(request, answer)

    async def _generate(self, request: Request) -> Response:
        body = json.loads(await request.body())
        body["stream"] = False
        is_active = len(self._pushed) > 1
        if is_active:
            body["arms"] = body["arms"] or [arm.model_dump() for arm in build_all_arms()]
            for arm in body["arms"]:
                self.arm(arm)
        answer = await self._http.post(request.url.path, json=body)
        content = answer.json()
        if is_active:
            for group in content["groups"]:
                for completion in group["arms"]:
                    self.completion(completion)
        return Response(json.dumps(content), answer.status_code, media_type="application/json")

    async def _pass(self, request: Request) -> Response:
        answer = await self._http.request(
            request.method,
            request.url.path,
            params=dict(request.query_params),
            content=await request.body(),
            headers={"Content-Type": request.headers.get("Content-Type", "")},
        )
        return self._answer(request, answer)

    def _answer(self, request: Request, answer: httpx.Response) -> Response:
        content = answer.json()
        if (claimed := self._claimed.get(request.url.path)) and answer.is_success:
            content["sha256"] = claimed
        return Response(json.dumps(content), answer.status_code, media_type="application/json")


class ServesThePreviousAdapter(Saboteur):
    def weights(self, pushed: list[bytes]) -> bytes:
        return pushed[-2] if len(pushed) > 1 else pushed[-1]


class DoublesB(Saboteur):
    def weights(self, pushed: list[bytes]) -> bytes:
        tensors = load(pushed[-1])
        doubled = {name: t * 2 if ".lora_B." in name else t for name, t in tensors.items()}
        return bytes(save(doubled))


class DoublesTheTemperature(Saboteur):
    def arm(self, arm: dict[str, Any]) -> None:
        arm["temperature"] *= 2

    def completion(self, completion: dict[str, Any]) -> None:
        completion["temperature"] /= 2


class TellsTheTemperatureThatItDoubles(DoublesTheTemperature):
    def completion(self, completion: dict[str, Any]) -> None:
        """Nothing is hidden."""


class ShiftsLogprobs(Saboteur):
    def completion(self, completion: dict[str, Any]) -> None:
        first, *rest = completion["logprobs"]
        completion["logprobs"] = [*rest, first]


@contextmanager
def sabotaged(upstream: str, kind: Callable[[str], Saboteur]) -> Iterator[str]:
    """The URL of a saboteur in front of a server; the saboteur is gone after the block."""
    config = uvicorn.Config(kind(upstream).app, port=0, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        (listening,) = server.servers
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
