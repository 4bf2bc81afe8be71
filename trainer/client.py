"""The trainer's side of the server's HTTP API: typed, async, with deadlines and safe retries.

Every request here may be repeated: generation has no side effect, a push of the same digest is a
no-op, activation is idempotent.
"""

import hashlib
import logging
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
    ArmsRequest,
    ArmsResponse,
    ErrorResponse,
    ServerStatus,
)
from trainer.config import ServerConfig
from trainer.errors import ServerError, ServerRejectedError, ServerUnreachableError

_BUSY = (429, 502, 503, 504)
_CONNECT_TIMEOUT_S = 5.0

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


class ArmsClient:
    """A connection to one inference server; use it as an async context manager."""

    def __init__(self, config: ServerConfig):
        """Nothing is sent before the first call."""
        self._url = config.url
        self._retry_for_s = config.retry_for_s
        headers = {}
        if config.api_key is not None:
            headers["Authorization"] = f"Bearer {config.api_key.get_secret_value()}"
        self._http = httpx.AsyncClient(
            base_url=config.url,
            headers=headers,
            timeout=httpx.Timeout(config.request_timeout_s, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None),
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

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        """All arms of some questions."""
        return await self._send(
            ArmsResponse,
            "POST",
            "/v1/arms/generate",
            content=request.model_dump_json().encode(),
            headers={"Content-Type": "application/json"},
        )

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        """Upload an adapter folder as an immutable version."""
        weights = (folder / ADAPTER_WEIGHTS_FILE).read_bytes()
        return await self._send(
            AdapterInfo,
            "PUT",
            f"/v1/adapters/{version}",
            params={"activate": "true" if activate else "false"},
            data={"sha256": hashlib.sha256(weights).hexdigest()},
            files={
                ADAPTER_CONFIG_FILE: (
                    ADAPTER_CONFIG_FILE,
                    (folder / ADAPTER_CONFIG_FILE).read_bytes(),
                ),
                ADAPTER_WEIGHTS_FILE: (ADAPTER_WEIGHTS_FILE, weights),
            },
        )

    async def delete_adapter(self, version: int) -> None:
        """Remove a version that is neither active nor in use."""
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
            raise ServerError(
                f"{self._url}{path} answered with something else than {body.__name__.strip('_')}; "
                f"is it a Regime W server? ({error.error_count()} errors)"
            ) from None

    async def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            async for attempt in stamina.retry_context(
                on=(httpx.TransportError, _BusyError),
                timeout=self._retry_for_s or None,
                attempts=None if self._retry_for_s else 1,
            ):
                with attempt:
                    response = await self._http.request(method, path, **kwargs)
                    if response.status_code in _BUSY:
                        raise _BusyError(f"status {response.status_code}")
        except (httpx.TransportError, _BusyError) as error:
            reason = str(error) or type(error).__name__
            raise ServerUnreachableError(
                f"no answer from {self._url}{path} within {self._retry_for_s:.0f} s: {reason}; "
                "is the server up, and is server.url right?"
            ) from None
        if response.is_error:
            raise _rejection(response)
        return response


def _rejection(response: httpx.Response) -> ServerRejectedError:
    try:
        error = ErrorResponse.model_validate_json(response.content).error
    except ValidationError:
        return ServerRejectedError(response.status_code, response.text[:200], None)
    return ServerRejectedError(response.status_code, error.message, error.param)
