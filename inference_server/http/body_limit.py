"""A limit on the size of every request body, counted as the bytes arrive.

Which body is an adapter's, that has a limit of its own, is decided by method, path and type together: the
type alone is the client's to choose.
"""

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.errors import TooLarge
from inference_server.http.errors import refuse
from inference_server.http.uploads import is_upload


class BodyLimit:
    """ASGI middleware: answers a body over the limit with 413 and stops reading it.

    Args:
        app: The application to guard.
        max_body_bytes: Limit for every body but an upload's, which `uploads` counts.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        """See the class."""
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 413."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if scope["type"] != "http" or is_upload(scope):
            await self._app(scope, receive, send)
            return
        declared = headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            await refuse(self._error(), scope, receive, send)
            return
        num_bytes, has_started, is_over = 0, False, False

        async def receive_and_count() -> Message:
            nonlocal num_bytes, is_over
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
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
                await refuse(self._error(), scope, receive, send)

    def _error(self) -> TooLarge:
        return TooLarge(f"the body exceeds the server's limit of {self._max_body_bytes} bytes")
