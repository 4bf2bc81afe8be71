"""A limit on the size of every request body, counted as the bytes arrive."""

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.errors import TooLarge
from inference_server.http.errors import refuse
from inference_server.http.uploads import max_bytes_of
from inference_server.settings import Settings


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
        max_bytes = max_bytes_of(scope, self._settings)
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
