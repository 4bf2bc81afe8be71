"""The API key in front of every route.

vLLM's own ``--api-key`` guards four path prefixes only; ``/metrics``, ``/invocations``, ``/tokenize``
and the documentation pages stay open behind it.
"""

import hashlib
import secrets
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.errors import ApiError, ErrorType

# Container and load-balancer probes hold no key, and the answer tells nothing but "up".
_OPEN_PATHS = frozenset({"/health"})


class BearerAuth:
    """ASGI middleware: requests without ``Authorization: Bearer KEY`` get 401.

    Args:
        app: The application behind it.
        key: The key; None lets everything through (the launcher then allows loopback only).
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key_digest = None if key is None else _digest(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401 (closes, where it is a websocket)."""
        if scope["type"] == "lifespan" or self._admits(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "missing API key"})
        else:
            error = ApiError(
                HTTPStatus.UNAUTHORIZED,
                ErrorType.UNAUTHORIZED,
                "send the server's API key as 'Authorization: Bearer KEY'",
                param="Authorization",
            )
            await error.response()(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        if self._key_digest is None or scope["path"] in _OPEN_PATHS:
            return True
        scheme, _, key = Headers(scope=scope).get("Authorization", "").partition(" ")
        # Digests have one length, so the comparison tells nothing about the key's.
        return scheme.lower() == "bearer" and secrets.compare_digest(
            _digest(key.strip()), self._key_digest
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
