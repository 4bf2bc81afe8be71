"""The trainer's side of the server's HTTP API: typed, async, with deadlines and safe retries.

Every request here may be repeated: generation has no side effect, a push of the same digest is a
no-op, activation is idempotent.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import stamina
from pydantic import BaseModel, ValidationError
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from inference_server.schemas import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    AdapterInfo,
    AdapterList,
    AdapterPath,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    ErrorResponse,
    Question,
    ServerStatus,
    StreamEnd,
)
from trainer.config import ServerConfig
from trainer.errors import ServerError, ServerRejectedError, ServerUnreachableError

_BUSY = (408, 429, 502, 503, 504)
_CONNECT_TIMEOUT_S = 5.0
# httpx offers every waiting request the same idle connection: of many at once, each tries them all.
_MAX_IDLE_CONNECTIONS = 4

_log = logging.getLogger(__name__)


def _log_retry(details: RetryDetails) -> None:
    reason = str(details.caused_by) or type(details.caused_by).__name__
    _log.warning("no answer (%s); asking again in %.1f s", reason, details.wait_for)


# Stamina's own hook logs an event name without saying what went wrong.
set_on_retry_hooks((_log_retry,))

_Body = TypeVar("_Body", bound=BaseModel)


class _Choice(BaseModel):
    index: int
    text: str


class _Completions(BaseModel):
    """What we need of the OpenAI API's answer."""

    choices: list[_Choice]


class _BusyError(Exception):
    """An answer that says: later. Only lives inside the retry loop."""

    def __init__(self, reason: str, retry_after_s: float = 0.0):
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class ArmsClient:
    """A connection to one inference server; use it as an async context manager.

    Errors of every method: `ServerRejectedError` where the request is at fault,
    `ServerUnreachableError` where the server stayed away or busy for ``server.retry_for_s``,
    `ServerError` where it answers with something else than its schema.
    """

    def __init__(self, config: ServerConfig):
        """Nothing is sent before the first call."""
        self._url = config.url
        self._retry_for_s = config.retry_for_s
        self._push_by_path = config.push_by_path
        headers = {}
        if config.api_key is not None:
            headers["Authorization"] = f"Bearer {config.api_key.get_secret_value()}"
        if httpx.URL(config.url).host in ("127.0.0.1", "localhost", "::1"):
            # Compressing costs both sides more than loopback takes to carry it.
            headers["Accept-Encoding"] = "identity"
        self._http = httpx.AsyncClient(
            base_url=config.url,
            headers=headers,
            timeout=httpx.Timeout(config.request_timeout_s, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=_MAX_IDLE_CONNECTIONS
            ),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def status(self) -> ServerStatus:
        """What the server is and serves."""
        return await self._send(ServerStatus, "GET", "/v1/status")

    async def generate(
        self, request: ArmsRequest, *, request_id: str | None = None
    ) -> ArmsResponse:
        """All arms of some questions.

        Args:
            request: What to generate; its ``stream`` is ignored.
            request_id: Id under which the server logs it.
        """
        return await self._send(
            ArmsResponse,
            "POST",
            "/v1/arms/generate",
            **_arms_body(request.model_copy(update={"stream": False}), request_id),
        )

    async def stream(
        self, request: ArmsRequest, *, request_id: str | None = None
    ) -> AsyncGenerator[ArmGroup, None]:
        """The groups of some questions, each as soon as it is finished.

        Where the connection breaks, only the questions that have no group yet are asked again. A group
        with a seed is the same whatever else is asked with it.

        Args:
            request: What to generate.
            request_id: Id under which the server logs it.
        """
        # Plain strings get the ids that the server would give them, which do not move when asked again.
        open_questions = {
            question.id: question
            for question in (
                Question(id=f"q{index}", question=item) if isinstance(item, str) else item
                for index, item in enumerate(request.questions)
            )
        }
        while open_questions:
            num_open = len(open_questions)
            try:
                async for attempt in self._attempts():
                    # A group that has come is progress, and starts the waiting afresh.
                    with attempt:
                        body = request.model_copy(
                            update={"stream": True, "questions": list(open_questions.values())}
                        )
                        async with aclosing(self._stream_once(body, request_id)) as groups:
                            async for group in groups:
                                if open_questions.pop(group.id, None) is None:
                                    raise ServerError(
                                        f"got a group {group.id!r} that was not asked"
                                    )
                                yield group
                        if open_questions:
                            raise ServerError(f"{len(open_questions)} groups never came")
            except (httpx.TransportError, _BusyError) as error:
                if len(open_questions) == num_open:
                    raise self._unreachable("/v1/arms/generate", error) from None

    async def _stream_once(
        self, request: ArmsRequest, request_id: str | None
    ) -> AsyncGenerator[ArmGroup, None]:
        async with self._http.stream(
            "POST", "/v1/arms/generate", **_arms_body(request, request_id)
        ) as response:
            if response.is_error:
                await response.aread()
            _raise_busy(response)
            if response.is_error:
                raise _rejection(response)
            async for line in _whole_lines(response):
                message = self._read_line(line)
                if isinstance(message, StreamEnd):
                    return
                if isinstance(message, ErrorResponse):
                    raise _BusyError(message.error.message)
                yield message
        raise httpx.RemoteProtocolError("the stream broke off before its last line")

    def _read_line(self, line: str) -> ArmGroup | StreamEnd | ErrorResponse:
        try:
            keys = json.loads(line).keys()
            if "error" in keys:
                return ErrorResponse.model_validate_json(line)
            return (StreamEnd if "usage" in keys else ArmGroup).model_validate_json(line)
        except (ValueError, AttributeError) as error:
            raise self._not_ours("/v1/arms/generate", ArmGroup) from error

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        """Makes the server serve an adapter folder as an immutable version."""
        body = await asyncio.to_thread(self._upload, folder)
        return await self._send(
            AdapterInfo,
            "PUT",
            f"/v1/adapters/{version}",
            params={"activate": "true" if activate else "false"},
            **body,
        )

    def _upload(self, folder: Path) -> Mapping[str, Any]:
        """The body of a push, as httpx takes it."""
        weights = (folder / ADAPTER_WEIGHTS_FILE).read_bytes()
        sha256 = hashlib.sha256(weights).hexdigest()
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

    async def adapters(self) -> AdapterList:
        """Every version that the server holds."""
        return await self._send(AdapterList, "GET", "/v1/adapters")

    async def adapter(self, version: int) -> AdapterInfo:
        """One version that the server holds."""
        return await self._send(AdapterInfo, "GET", f"/v1/adapters/{version}")

    async def activate_adapter(self, version: int) -> AdapterInfo:
        """Moves ``policy`` to a version that the server holds, forth or back."""
        return await self._send(AdapterInfo, "POST", f"/v1/adapters/{version}/activate")

    async def delete_adapter(self, version: int) -> None:
        """Removes a version that is neither active nor in use."""
        await self._request("DELETE", f"/v1/adapters/{version}")

    async def complete(
        self, model: str, prompts: list[str], *, max_tokens: int, temperature: float = 0.0
    ) -> list[str]:
        """Completions of plain prompts by a served model name, in order; greedy by default."""
        completions = await self._send(
            _Completions,
            "POST",
            "/v1/completions",
            json={
                "model": model,
                "prompt": prompts,
                "max_tokens": max_tokens,
                "temperature": temperature,
            },
        )
        choices = sorted(completions.choices, key=lambda choice: choice.index)
        return [choice.text for choice in choices]

    async def _send(self, body: type[_Body], method: str, path: str, **kwargs: Any) -> _Body:
        response = await self._request(method, path, **kwargs)
        try:
            return body.model_validate_json(response.content)
        except ValidationError as error:
            raise self._not_ours(path, body) from error

    async def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            async for attempt in self._attempts():
                with attempt:
                    response = await self._http.request(method, path, **kwargs)
                    _raise_busy(response)
        except (httpx.TransportError, _BusyError) as error:
            raise self._unreachable(path, error) from None
        if response.is_error:
            raise _rejection(response)
        return response

    def _attempts(self) -> AsyncIterator[stamina.Attempt]:
        return aiter(
            stamina.retry_context(
                on=_wait_before_retry,
                timeout=self._retry_for_s or None,
                attempts=None if self._retry_for_s else 1,
            )
        )

    def _unreachable(self, path: str, error: Exception) -> ServerUnreachableError:
        reason = str(error) or type(error).__name__
        return ServerUnreachableError(
            f"no answer from {self._url}{path} within {self._retry_for_s:.0f} s: {reason}; "
            "is the server up, and is server.url right?"
        )

    def _not_ours(self, path: str, body: type[BaseModel]) -> ServerError:
        return ServerError(
            f"{self._url}{path} answered with something else than {body.__name__.strip('_')}; "
            "is it a Regime W server?"
        )


def _wait_before_retry(error: Exception) -> bool | float:
    """Whether a request may be sent again, or after how many seconds the server wants it."""
    if isinstance(error, _BusyError):
        return error.retry_after_s or True
    return isinstance(error, httpx.TransportError)


def _arms_body(request: ArmsRequest, request_id: str | None) -> Mapping[str, Any]:
    headers = {"Content-Type": "application/json"}
    if request_id is not None:
        headers["X-Request-Id"] = request_id
    return {"content": request.model_dump_json().encode(), "headers": headers}


async def _whole_lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    """Lines that ended with a newline: a rest is what a broken connection has left of one."""
    rest = ""
    async for text in response.aiter_text():
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            yield line


def _raise_busy(response: httpx.Response) -> None:
    if response.status_code in _BUSY:
        retry_after = response.headers.get("Retry-After", "")
        raise _BusyError(
            f"status {response.status_code}",
            float(retry_after) if retry_after.isdigit() else 0.0,
        )


def _rejection(response: httpx.Response) -> ServerRejectedError:
    try:
        error = ErrorResponse.model_validate_json(response.content).error
    except ValidationError:
        return ServerRejectedError(response.status_code, response.text[:200], None)
    return ServerRejectedError(response.status_code, error.message, error.param)
