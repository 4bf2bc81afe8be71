"""HTTP requests with deadlines and retries; knows nothing about what is asked.

A request is sent again after any failure that may pass: no connection, a broken one, no progress for
``server.request_timeout_s``, status 5xx, a full server, a body that is incomplete or comes from another program.
Progress means the whole answer or, if the answer is streamed, each line.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx
import stamina
from pydantic import BaseModel, ValidationError

from inference_server.wire.settings.serve import is_loopback
from trainer.client.responses import (
    ACCEPTED_ENCODINGS,
    MAX_BODY_BYTES,
    InvalidResponseError,
    drop_location,
    read_body,
    rejection,
    retry_after_s,
)
from trainer.client.retries import Outage, Patience
from trainer.config.sections import ServerConfig
from trainer.errors import ServerError, ServerUnreachableError

_CONNECT_TIMEOUT_S = 5.0
_LONGEST_ANSWER_S = 7200.0
"""A stream is broken off after this time, whatever its progress: twice the default of the server's max_request_s."""
_HEADERS_READ = (b"content-type", b"retry-after")
# httpx offers the same idle connections to every waiting request: if there are many, each request tries them all.
_MAX_IDLE_CONNECTIONS = 4

_T = TypeVar("_T")
_Body = TypeVar("_Body", bound=BaseModel)


class _BusyError(Exception):
    """The server asks to try again later; only raised inside the retry loop."""

    def __init__(self, reason: str, retry_after_s: float = 0.0):
        """``retry_after_s`` is how long the server asks to wait; 0 leaves it to the client."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _FullError(_BusyError):
    """The server works, but takes no more requests at the moment."""


_TRANSIENT = (
    httpx.TransportError,
    httpx.DecodingError,
    TimeoutError,
    _BusyError,
    InvalidResponseError,
)
"""Errors that may be gone when the same request is sent again."""


class RetryingHTTP:
    """Connections to one server; close them with `aclose`."""

    def __init__(
        self,
        config: ServerConfig,
        transport: httpx.AsyncBaseTransport | None,
        *,
        logs_outages: bool,
        full_for_s: float | None,
    ):
        """Nothing is sent before the first request.

        Args:
            config: Where the server is, its key and the deadlines.
            transport: What carries the requests; None means the network.
            logs_outages: Whether to log when a server fails.
            full_for_s: How long to keep trying a server that answers 429 (full); None means ``give_up_after_s``.
        """
        self._url = config.url
        self._give_up_after_s = config.give_up_after_s
        self._full_for_s = config.give_up_after_s if full_for_s is None else full_for_s
        self._timeout_s = config.request_timeout_s
        self._outage = Outage(config.give_up_after_s, is_logged=logs_outages)
        # In other encodings, a body could grow without limit before its size can be checked.
        headers = {"Accept-Encoding": ACCEPTED_ENCODINGS}
        host = httpx.URL(config.url).host
        is_local = is_loopback(host) or host.endswith(".localhost")
        if config.api_key is not None:
            headers["Authorization"] = f"Bearer {config.api_key.get_secret_value()}"
        if is_local:
            # Compression costs both sides more time than loopback takes to carry uncompressed data.
            headers["Accept-Encoding"] = "identity"
        self._http = httpx.AsyncClient(
            base_url=config.url,
            headers=headers,
            # None is kept: httpx could not send one back that a faulty network has put other bytes into.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            event_hooks={"response": [drop_location]},
            transport=transport,
            # Traffic within this machine, and with it the key, must not go through a proxy from the environment.
            trust_env=not is_local,
            timeout=httpx.Timeout(config.request_timeout_s, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=_MAX_IDLE_CONNECTIONS
            ),
        )

    async def aclose(self) -> None:
        """Close every connection; the server aborts what was in flight on them, and it is not sent again."""
        await self._http.aclose()

    async def send(self, body: type[_Body], method: str, path: str, **options: Any) -> _Body:
        """The answer to a request, as a ``body``; ``options`` are those of `httpx.AsyncClient.request`.

        Raises:
            ServerError: See `request`.
        """
        return await self.request(
            lambda response: self.parse(body, response), method, path, **options
        )

    async def request(
        self,
        read: Callable[[httpx.Response], _T],
        method: str,
        path: str,
        *,
        streamed: bool = False,
        max_bytes: int = MAX_BODY_BYTES,
        **options: Any,
    ) -> _T:
        """What ``read`` makes of the first good answer.

        Args:
            read: Turns a response into the result; raises `InvalidResponseError` to have it sent again.
            method: The HTTP method.
            path: The path below ``server.url``.
            streamed: Whether each line of the answer is progress, empty ones included.
            max_bytes: The longest answer that is read.
            options: As `httpx.AsyncClient.request` takes them.

        Raises:
            ServerRejectedError: The request is at fault.
            ServerUnreachableError: No good answer came for ``server.give_up_after_s``.
            ServerError: The last answer was not what its schema says.
        """
        try:
            async for attempt in self._attempts(path):
                with attempt:
                    response = await self._receive(
                        method, path, options, streamed=streamed, max_bytes=max_bytes
                    )
                    raise_for_status(response)
                    answer = read(response)
        except _TRANSIENT as error:
            raise self._given_up(path, error) from None
        self._outage.over()
        return answer

    async def _receive(
        self, method: str, path: str, options: Mapping[str, Any], *, streamed: bool, max_bytes: int
    ) -> httpx.Response:
        """One whole answer; raises TimeoutError if there is no progress."""
        # httpx's timeout restarts with every byte; this one does not restart or, in a stream, with every line.
        async with (
            asyncio.timeout(self._timeout_s) as deadline,
            self._http.stream(method, path, **options) as response,
        ):
            content, loop = bytearray(), asyncio.get_running_loop()
            last_s = loop.time() + _LONGEST_ANSWER_S
            async for part in read_body(response, max_bytes):
                content += part
                if streamed and b"\n" in part:
                    deadline.reschedule(min(loop.time() + self._timeout_s, last_s))
        # As bytes, which need not be text: a faulty network may have changed them.
        headers = [header for header in response.headers.raw if header[0].lower() in _HEADERS_READ]
        return httpx.Response(
            response.status_code, headers=headers, content=bytes(content), request=response.request
        )

    def parse(self, body: type[_Body], response: httpx.Response) -> _Body:
        """A response's content.

        Raises:
            InvalidResponseError: The content is not a valid ``body``.
        """
        try:
            return body.model_validate_json(response.content)
        except (ValidationError, RecursionError) as error:
            raise InvalidResponseError(
                f"{self._url}{response.url.path} returned no valid {body.__name__.strip('_')}"
            ) from error

    def _attempts(self, path: str) -> AsyncIterator[stamina.Attempt]:
        for_failing, for_full = Patience(self._give_up_after_s), Patience(self._full_for_s)

        def wait_before_retry(error: Exception) -> bool | float:
            """Whether a request may be sent again, or how many seconds the server asks to wait before that."""
            # Closing the connections fails what was in flight on them, which is no outage.
            if self._http.is_closed or not isinstance(error, _TRANSIENT):
                return False
            is_full = isinstance(error, _FullError)
            patience = for_full if is_full else for_failing
            if not is_full:
                self._outage.failed(path, self._reason(error))
            if not patience.lasts():
                return False
            asked_s = error.retry_after_s if isinstance(error, _BusyError) else 0.0
            return min(asked_s, patience.left_s()) or True

        return aiter(stamina.retry_context(on=wait_before_retry, timeout=None, attempts=None))

    def _reason(self, error: Exception) -> str:
        if isinstance(error, (TimeoutError, httpx.ReadTimeout)):
            return f"no progress within server.request_timeout_s = {self._timeout_s:g}"
        return str(error) or type(error).__name__

    def _tried_s(self, error: Exception) -> float:
        return self._full_for_s if isinstance(error, _FullError) else self._give_up_after_s

    def _given_up(self, path: str, error: Exception) -> ServerError:
        if isinstance(error, InvalidResponseError):
            return ServerError(f"{error}; is it a Regime W server?")
        answered = isinstance(error, _BusyError)
        advice = "" if answered else "; is the server up, and is server.url right?"
        return ServerUnreachableError(
            f"no {'good ' if answered else ''}answer from {self._url}{path} within {self._tried_s(error):g} s: "
            f"{self._reason(error)}{advice}"
        )


def raise_for_status(response: httpx.Response) -> None:
    """Raise a transient error for a status worth retrying, `ServerRejectedError` for any other error."""
    status = response.status_code
    is_full = status == HTTPStatus.TOO_MANY_REQUESTS
    if (
        is_full
        or status == HTTPStatus.REQUEST_TIMEOUT
        or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    ):
        kind = _FullError if is_full else _BusyError
        raise kind(rejection(response).args[0], retry_after_s(response))
    if response.is_error:
        raise rejection(response)
