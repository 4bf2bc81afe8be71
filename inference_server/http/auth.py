"""The API key in front of every route.

vLLM's own ``--api-key`` guards four path prefixes only; ``/metrics``, ``/invocations``, ``/tokenize``
and the documentation pages stay open behind it.

A browser cannot send a bearer token with the address that somebody types, so the playground page asks for
the key as the password of HTTP Basic (RFC 7617), and its own requests carry it in the same way.
"""

import base64
import binascii
import hashlib
import secrets
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.http.errors import ApiError, ErrorType

# Container and load-balancer probes hold no key, and the answer tells nothing but "up".
_OPEN_PATHS = frozenset({"/health"})
PLAYGROUND_PATH = "/"
_BASIC_CHALLENGE = 'Basic realm="Regime W: any name, the API key as password", charset="UTF-8"'


class BearerAuth:
    """ASGI middleware: requests without the key get 401.

    It comes as ``Authorization: Bearer KEY``; from the playground page as the password of Basic.

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
            response = error.response()
            if scope["path"] == PLAYGROUND_PATH:
                response.headers["WWW-Authenticate"] = _BASIC_CHALLENGE
            await response(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        if self._key_digest is None or scope["path"] in _OPEN_PATHS:
            return True
        headers = Headers(scope=scope)
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        key = credentials.strip()
        if scheme.lower() == "basic":
            # Browsers add these to the requests of any page that somebody has open, and say whose it is.
            own_page = headers.get("Sec-Fetch-Site") == "same-origin"
            if scope["path"] != PLAYGROUND_PATH and not own_page:
                return False
            key = _basic_password(key)
        elif scheme.lower() != "bearer":
            return False
        # Digests have one length, so the comparison tells nothing about the key's.
        return secrets.compare_digest(_digest(key), self._key_digest)


def _basic_password(credentials: str) -> str:
    """The password of Basic credentials; empty, which no key is, where they are malformed."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
