"""The server's HTTP API as typed, async calls; `trainer.client.http` sends them again if they fail."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import ValidationError

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.adapters.references import AdapterPath
from inference_server.wire.digests import sha256_of_bytes
from inference_server.wire.schemas import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    ServerStatus,
)
from inference_server.wire.streams import NDJSON
from regime_w import ArmSpec
from trainer.client.arms_stream import read_stream
from trainer.client.ask_groups import ask_groups, policy_of
from trainer.client.http import RetryingHTTP, raise_for_status
from trainer.client.protocol import GreedyPrompt, TextCompletion
from trainer.client.response_checks import flaw_in_groups
from trainer.client.responses import MAX_BODY_BYTES, InvalidResponseError
from trainer.config.sections import ServerConfig

_QUESTIONS_PER_REQUEST = 64
"""The most questions of a request for greedy answers; all requests are sent at once."""
_HEARTBEAT_S = 10.0
"""How often the server shows that it still generates: well within the 60 s after which many proxies end an
idle connection."""
_MIN_HEARTBEAT_S = 0.1
_BYTES_OF_A_TOKEN = 256
"""A generous size of one token in an answer: its id, its logprob and its text."""


class ArmsClient:
    """A connection to one server over HTTP; see `trainer.client.protocol.InferenceServer`."""

    def __init__(
        self,
        config: ServerConfig,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        logs_outages: bool = True,
        full_for_s: float | None = None,
    ):
        """Nothing is sent before the first call; for the arguments see `RetryingHTTP`."""
        self._http = RetryingHTTP(
            config, transport, logs_outages=logs_outages, full_for_s=full_for_s
        )
        self._url = config.url
        self._push_by_path = config.push_by_path
        self._heartbeat_s = max(_MIN_HEARTBEAT_S, min(_HEARTBEAT_S, config.request_timeout_s / 4))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connections; requests in flight are aborted."""
        await self._http.aclose()

    async def status(self) -> ServerStatus:
        """What the server is and which versions it holds."""
        return await self._http.send(ServerStatus, "GET", "/v1/status")

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        """A group of arms for each question, in order; the request's ``stream`` is ignored.

        The answer is streamed, so that a slow server has no deadline while it generates.
        """

        def read(response: httpx.Response) -> ArmsResponse:
            answer = self._read_groups(request, response)
            if flaw := flaw_in_groups(request, answer.groups):
                raise InvalidResponseError(f"{self._url}/v1/arms/generate answered with {flaw}")
            return answer

        body = request.model_copy(update={"stream": True}).model_dump_json().encode()
        return await self._http.request(
            read,
            "POST",
            "/v1/arms/generate",
            streamed=True,
            max_bytes=_longest_answer(request),
            params={"heartbeat_s": self._heartbeat_s},
            content=body,
            headers={"Content-Type": "application/json"},
        )

    def _read_groups(self, request: ArmsRequest, response: httpx.Response) -> ArmsResponse:
        """The groups of one good answer; a proxy may have joined the stream into a single body."""
        if NDJSON not in response.headers.get("Content-Type", ""):
            return self._http.parse(ArmsResponse, response)
        try:
            answer = read_stream(request, response.content)
        except (ValidationError, RecursionError) as error:
            raise InvalidResponseError(
                f"{self._url}/v1/arms/generate ended its stream early, or sent something else"
            ) from error
        if isinstance(answer, ArmsResponse):
            return answer
        raise_for_status(answer)
        raise AssertionError("a stream that failed has the status of an error")

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        """Greedy answers of a version, in order; None asks the base model.

        Raises:
            LostError: The server aborted an answer.
        """
        requests = [
            ArmsRequest(
                questions=list(questions[start : start + _QUESTIONS_PER_REQUEST]),
                arms=[_greedy_arm(prompt.system_prompt)],
                max_tokens=prompt.max_tokens,
                policy=policy_of(version),
                prompt_format=prompt.prompt_format,
                stop=prompt.stop,
                greedy=True,
            )
            for start in range(0, len(questions), _QUESTIONS_PER_REQUEST)
        ]
        # All at once, so that the version is in use until the last answer and cannot be retired.
        answers = await asyncio.gather(*(ask_groups(self, request) for request in requests))
        return [
            TextCompletion(
                text=group.arms[0].text,
                num_tokens=len(group.arms[0].token_ids),
                truncated=group.arms[0].finish_reason is FinishReason.LENGTH,
            )
            for groups, _ in answers
            for group in groups
        ]

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        """Make the server hold an adapter folder as an immutable version; with ``activate``, also as ``policy``."""
        body = await asyncio.to_thread(self._upload, folder)
        return await self._http.send(
            AdapterInfo,
            "PUT",
            f"/v1/adapters/{version}",
            params={"activate": "true" if activate else "false"},
            **body,
        )

    def _upload(self, folder: Path) -> Mapping[str, Any]:
        """The body of a push, as httpx takes it."""
        weights = (folder / ADAPTER_WEIGHTS_FILE).read_bytes()
        sha256 = sha256_of_bytes(weights)
        if self._push_by_path:
            return {"json": AdapterPath(path=str(folder.resolve()), sha256=sha256).model_dump()}
        config = (folder / ADAPTER_CONFIG_FILE).read_bytes()
        return {
            "data": {"sha256": sha256},
            "files": {
                ADAPTER_CONFIG_FILE: (ADAPTER_CONFIG_FILE, config),
                ADAPTER_WEIGHTS_FILE: (ADAPTER_WEIGHTS_FILE, weights),
            },
        }

    async def adapter(self, version: int) -> AdapterInfo:
        """A version as the server holds it."""
        return await self._http.send(AdapterInfo, "GET", f"/v1/adapters/{version}")

    async def activate_adapter(self, version: int) -> AdapterInfo:
        """Make ``policy`` name a version that the server holds, newer or older."""
        return await self._http.send(AdapterInfo, "POST", f"/v1/adapters/{version}/activate")

    async def delete_adapter(self, version: int) -> None:
        """Remove a version that is neither active nor in use."""
        await self._http.request(lambda _: None, "DELETE", f"/v1/adapters/{version}")


def _longest_answer(request: ArmsRequest) -> int:
    """More bytes than the answer to a request can have."""
    num_completions = len(request.questions) * len(request.arm_names) * request.samples_per_arm
    return MAX_BODY_BYTES + num_completions * request.max_tokens * _BYTES_OF_A_TOKEN


def _greedy_arm(system_prompt: str) -> ArmSpec:
    """An arm for a greedy request, which uses only the arm's system prompt."""
    return ArmSpec(name="greedy", system_prompt=system_prompt, temperature=1.0, top_p=1.0)
