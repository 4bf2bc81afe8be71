"""The trainer's side of the server's HTTP API: typed, async, with deadlines and safe retries.

Every request here may be repeated: generation has no side effect, a push of the same digest is a
no-op, activation is idempotent.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import stamina
from pydantic import BaseModel, ValidationError
from stamina.instrumentation import set_on_retry_hooks

from inference_server.wire.schemas import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    AdapterInfo,
    AdapterList,
    AdapterPath,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    ErrorResponse,
    FinishReason,
    Question,
    ServerStatus,
    StreamEnd,
)
from trainer.client.response_checks import flaw_in_group, flaw_in_groups
from trainer.client.retries import Outage, Patience
from trainer.config.sections import ServerConfig
from trainer.errors import ServerError, ServerRejectedError, ServerUnreachableError

_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS, _INTERNAL_ERROR = 408, 429, 500
_CONNECT_TIMEOUT_S = 5.0
# httpx offers every waiting request the same idle connection: of many at once, each tries them all.
_MAX_IDLE_CONNECTIONS = 4


# Stamina would log every attempt of every request; an outage is told once. See `Outage`.
set_on_retry_hooks(())

_T = TypeVar("_T")
_Body = TypeVar("_Body", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class TextCompletion:
    """What a plain prompt was continued with."""

    text: str
    num_tokens: int
    """EOS included."""
    truncated: bool
    """The token limit ended it."""


class _Choice(BaseModel):
    index: int
    text: str
    finish_reason: FinishReason
    token_ids: list[int]


class _CompletionsBody(BaseModel):
    """What we need of the OpenAI API's answer."""

    choices: list[_Choice]


class _BusyError(Exception):
    """An answer that says: later. Only lives inside the retry loop."""

    def __init__(self, reason: str, retry_after_s: float = 0.0):
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _FullError(_BusyError):
    """The server works, and takes no more at the moment."""


class _GarbledError(Exception):
    """An answer that is not whole, or not ours."""


_PASSING = (httpx.TransportError, httpx.DecodingError, TimeoutError, _BusyError, _GarbledError)
"""What may be over when the same request is sent again."""


class ArmsClient:
    """A connection to one inference server; use it as an async context manager.

    Whatever may pass is sent again: no connection, a broken one, an answer that takes longer than
    ``server.request_timeout_s``, status 5xx, a full server, a body that is not whole or not ours.

    Errors of every method: `ServerRejectedError` where the request is at fault,
    `ServerUnreachableError` where no good answer came for ``server.give_up_after_s``, `ServerError`
    where the last one was something else than its schema.
    """

    def __init__(self, config: ServerConfig):
        """Nothing is sent before the first call."""
        self._url = config.url
        self._give_up_after_s = config.give_up_after_s
        self._timeout_s = config.request_timeout_s
        self._outage = Outage(config.give_up_after_s)
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

        def read(response: httpx.Response) -> ArmsResponse:
            answer = self._parse(ArmsResponse, response)
            if flaw := flaw_in_groups(request, answer.groups):
                raise _GarbledError(f"{self._url}/v1/arms/generate answered with {flaw}")
            return answer

        return await self._request(
            read,
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
                async for attempt in self._attempts("/v1/arms/generate"):
                    # A group that has come is progress, and starts the waiting afresh.
                    with attempt:
                        body = request.model_copy(
                            update={"stream": True, "questions": list(open_questions.values())}
                        )
                        async with aclosing(self._stream_once(body, request_id)) as groups:
                            async for group in groups:
                                question = open_questions.get(group.id)
                                if question is None:
                                    raise _GarbledError(f"a group {group.id!r} that was not asked")
                                if flaw := flaw_in_group(request, question, group):
                                    raise _GarbledError(f"group {group.id!r}: {flaw}")
                                del open_questions[group.id]
                                self._outage.over()
                                yield group
                        if open_questions:
                            raise _GarbledError(f"{len(open_questions)} groups never came")
            except _PASSING as error:
                if len(open_questions) == num_open:
                    raise self._given_up("/v1/arms/generate", error) from None

    async def _stream_once(
        self, request: ArmsRequest, request_id: str | None
    ) -> AsyncGenerator[ArmGroup, None]:
        async with self._http.stream(
            "POST", "/v1/arms/generate", **_arms_body(request, request_id)
        ) as response:
            if response.is_error:
                await response.aread()
            _raise_for_status(response)
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
        await self._request(lambda _: None, "DELETE", f"/v1/adapters/{version}")

    async def complete(
        self, model: str, prompts: list[str], *, max_tokens: int, temperature: float = 0.0
    ) -> list[TextCompletion]:
        """Completions of plain prompts by a served model name, in order; greedy by default."""
        completions = await self._send(
            _CompletionsBody,
            "POST",
            "/v1/completions",
            json={
                "model": model,
                "prompt": prompts,
                "max_tokens": max_tokens,
                "temperature": temperature,
                "return_token_ids": True,
            },
        )
        return [
            TextCompletion(
                text=choice.text,
                num_tokens=len(choice.token_ids),
                truncated=choice.finish_reason is FinishReason.LENGTH,
            )
            for choice in sorted(completions.choices, key=lambda choice: choice.index)
        ]

    async def _send(self, body: type[_Body], method: str, path: str, **kwargs: Any) -> _Body:
        return await self._request(partial(self._parse, body), method, path, **kwargs)

    async def _request(
        self, read: Callable[[httpx.Response], _T], method: str, path: str, **kwargs: Any
    ) -> _T:
        """What ``read`` makes of the first good answer; ``read`` may call one garbled."""
        try:
            async for attempt in self._attempts(path):
                with attempt:
                    # A server that sends a byte now and then is no better than one that hangs.
                    async with asyncio.timeout(self._timeout_s):
                        response = await self._http.request(method, path, **kwargs)
                    _raise_for_status(response)
                    answer = read(response)
        except _PASSING as error:
            raise self._given_up(path, error) from None
        self._outage.over()
        return answer

    def _parse(self, body: type[_Body], response: httpx.Response) -> _Body:
        try:
            return body.model_validate_json(response.content)
        except ValidationError as error:
            raise self._not_ours(response.url.path, body) from error

    def _attempts(self, path: str) -> AsyncIterator[stamina.Attempt]:
        patience = Patience(self._give_up_after_s)

        def wait_before_retry(error: Exception) -> bool | float:
            """Whether a request may be sent again, or after how many seconds the server wants it."""
            if not isinstance(error, _PASSING):
                return False
            if not isinstance(error, _FullError):
                self._outage.failed(path, self._reason(error))
            if not patience.lasts():
                return False
            return (isinstance(error, _BusyError) and error.retry_after_s) or True

        return aiter(stamina.retry_context(on=wait_before_retry, timeout=None, attempts=None))

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no whole answer within server.request_timeout_s = {self._timeout_s:g}"
        return str(error) or type(error).__name__

    def _given_up(self, path: str, error: Exception) -> ServerError:
        if isinstance(error, _GarbledError):
            return ServerError(f"{error}; is it a Regime W server?")
        return ServerUnreachableError(
            f"no answer from {self._url}{path} within {self._give_up_after_s:g} s: "
            f"{self._reason(error)}; is the server up, and is server.url right?"
        )

    def _not_ours(self, path: str, body: type[BaseModel]) -> _GarbledError:
        return _GarbledError(
            f"{self._url}{path} answered with something else than {body.__name__.strip('_')}"
        )


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


def _raise_for_status(response: httpx.Response) -> None:
    """Tells what may be over when it is tried again from what is refused for good."""
    status = response.status_code
    if status in (_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS) or status >= _INTERNAL_ERROR:
        retry_after = response.headers.get("Retry-After", "")
        kind = _FullError if status == _TOO_MANY_REQUESTS else _BusyError
        raise kind(
            _rejection(response).args[0], float(retry_after) if retry_after.isdigit() else 0.0
        )
    if response.is_error:
        raise _rejection(response)


def _rejection(response: httpx.Response) -> ServerRejectedError:
    try:
        error = ErrorResponse.model_validate_json(response.content).error
    except ValidationError:
        return ServerRejectedError(response.status_code, response.text[:200], None)
    return ServerRejectedError(response.status_code, error.message, error.param)
