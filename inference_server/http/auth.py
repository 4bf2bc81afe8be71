"""The API key that guards every route.

vLLM's own ``--api-key`` guards four path prefixes only; it leaves ``/metrics``, ``/invocations``,
``/tokenize`` and the documentation pages open.

A browser cannot attach a bearer token to an address that the user types. The playground page therefore
asks for the key as the password of HTTP Basic (RFC 7617), and its own requests carry it the same way.
"""

import base64
import binascii
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.errors import Unauthorized
from inference_server.http.errors import refuse
from inference_server.wire.digests import sha256_of_bytes

# Container and load-balancer probes hold no key, and the answer reveals only that the server is up.
_OPEN_PATHS = frozenset({"/health"})
PLAYGROUND_PATH = "/"
_BASIC_CHALLENGE = 'Basic realm="Regime W: any name, the API key as password", charset="UTF-8"'


class BearerAuth:
    """ASGI middleware: answers requests without the key with 401.

    The key is sent as ``Authorization: Bearer KEY``, or by the playground page as the password of Basic.

    Args:
        app: The application to guard.
        key: The key.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        """See the class."""
        self._app = app
        self._key_digest = sha256_of_bytes(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401 (closes the connection of a websocket)."""
        if scope["type"] == "lifespan" or self._admits(scope):
            await self._app(scope, receive, send)
            return
        error = Unauthorized(
            "send the server's API key as 'Authorization: Bearer KEY'", "Authorization"
        )
        challenge = {"WWW-Authenticate": _BASIC_CHALLENGE}
        is_page = scope["path"] == PLAYGROUND_PATH
        await refuse(error, scope, receive, send, headers=challenge if is_page else {})

    def _admits(self, scope: Scope) -> bool:
        if scope["path"] in _OPEN_PATHS:
            return True
        headers = Headers(scope=scope)
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        key = credentials.strip()
        if scheme.lower() == "basic":
            # A browser sends stored Basic credentials with requests of any open page; this header
            # says whether the page is ours.
            own_page = headers.get("Sec-Fetch-Site") == "same-origin"
            if scope["path"] != PLAYGROUND_PATH and not own_page:
                return False
            key = _basic_password(key)
        elif scheme.lower() != "bearer":
            return False
        # Digests have equal length, so the comparison's time does not reveal the key's length.
        return secrets.compare_digest(sha256_of_bytes(key.encode()), self._key_digest)


def _basic_password(credentials: str) -> str:
    """The password in Basic credentials; empty (which no key is) if they are malformed."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
