"""A limit on the size of every request body, counted as the bytes arrive."""

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.adapters.storage import MAX_ADAPTER_CONFIG_BYTES
from inference_server.errors import TooLarge
from inference_server.http.errors import refuse
from inference_server.http.media_types import FORM, media_type
from inference_server.settings import Settings

_ADAPTERS = "/v1/adapters"
# Boundaries and part headers, on top of the two files.
_FORM_OVERHEAD_BYTES = 2**16


class BodyLimit:
    """ASGI middleware: answers a body over the limit with 413 and stops reading it.

    Args:
        app: The application to guard.
        settings: The server's; adapter uploads have a limit of their own.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """See the class."""
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = _max_bytes(scope, self._settings)
        error = TooLarge(f"the body exceeds the server's limit of {max_bytes} bytes")
        declared = Headers(scope=scope).get("Content-Length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            await refuse(error, scope, receive, send)
            return
        num_bytes, has_started, is_over = 0, False, False

        async def receive_and_count() -> Message:
            nonlocal num_bytes, is_over
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > max_bytes:
                is_over = True
                # The application sees a client that has disconnected, and stops reading.
                return {"type": "http.disconnect"}
            return message

        async def send_unless_over(message: Message) -> None:
            nonlocal has_started
            if not is_over or has_started:
                has_started = True
                await send(message)

        try:
            await self._app(scope, receive_and_count, send_unless_over)
        except ClientDisconnect:
            if not is_over:
                raise
        finally:
            if is_over and not has_started:
                await refuse(error, scope, receive, send)


def _max_bytes(scope: Scope, settings: Settings) -> int:
    """Largest body of a request.

    Method, path and type together decide whether the body is an adapter's upload: a client can send any
    type to any route.
    """
    folder = scope["path"].rpartition("/")[0]
    is_form = media_type(Headers(scope=scope)) == FORM
    if scope["method"] == "PUT" and folder == _ADAPTERS and is_form:
        return settings.max_adapter_bytes + MAX_ADAPTER_CONFIG_BYTES + _FORM_OVERHEAD_BYTES
    return settings.max_body_bytes
