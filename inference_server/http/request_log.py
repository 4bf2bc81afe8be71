"""One structured log line per request, with a request id that the client may choose, and an answer where a stop cuts it off.

Lines are JSON on standard error. Every line logged during a request has its ``request_id``, which the
response also returns in a header.
"""

import asyncio
import re
import sys
import time
import uuid
from http import HTTPStatus

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.errors import EngineUnavailable
from inference_server.http.errors import refuse

REQUEST_ID_HEADER = "X-Request-Id"
CLIENT_CLOSED_REQUEST = 499
"""Logged for a request whose client has left before its answer, as nginx does."""

# Safe in a log line and a header; any other id of a client is replaced.
_CLIENT_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# Requested by probes every few seconds; logged only if they fail.
_QUIET_PATHS = frozenset({"/health", "/metrics", "/v1/status"})

_RETRY_AFTER_S = "1"
_STOPPED = "the server stopped before the answer was complete"

_log = structlog.get_logger()


def configure_logging() -> None:
    """Makes structlog write one JSON object per line to standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


class RequestLog:
    """ASGI middleware: gives each request an id, logs its outcome, and answers one that the server's stop cancels."""

    def __init__(self, app: ASGIApp) -> None:
        """See the class."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and logs it when it ends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _CLIENT_ID.fullmatch(given) else uuid.uuid4().hex
        # Stays so if no response is sent.
        status = CLIENT_CLOSED_REQUEST
        started = time.monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                if status == HTTPStatus.SERVICE_UNAVAILABLE:  # vLLM's routes too
                    headers.setdefault("Retry-After", _RETRY_AFTER_S)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:  # while its body was read
                pass
            except asyncio.CancelledError:
                if status != CLIENT_CLOSED_REQUEST:  # the answer has begun
                    raise
                await refuse(EngineUnavailable(_STOPPED), scope, receive, send_with_id)
            except Exception:
                status = int(HTTPStatus.INTERNAL_SERVER_ERROR)
                raise
            finally:
                if status >= HTTPStatus.BAD_REQUEST or scope["path"] not in _QUIET_PATHS:
                    _log.info(
                        "request",
                        method=scope["method"],
                        path=scope["path"],
                        status=status,
                        seconds=round(time.monotonic() - started, 4),
                    )
