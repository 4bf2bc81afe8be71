"""A bound on the bytes of every request body, counted as they arrive."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.http.errors import ApiError, too_large


class BodyLimit:
    """ASGI middleware: a body over the limit gets 413 and is not read any further.

    Args:
        app: The application behind it.
        max_body_bytes: Limit of every body but a multipart one; adapter uploads have their own.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 413."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if scope["type"] != "http" or headers.get("Content-Type", "").startswith("multipart/"):
            await self._app(scope, receive, send)
            return
        declared = headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            await self._refusal().response()(scope, receive, send)
            return
        num_bytes, has_started, is_over = 0, False, False

        async def receive_and_count() -> Message:
            nonlocal num_bytes, is_over
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                is_over = True
                # Whatever reads the body sees a client that has gone.
                return {"type": "http.disconnect"}
            return message

        async def send_unless_over(message: Message) -> None:
            nonlocal has_started
            if not is_over or has_started:
                has_started = True
                await send(message)

        try:
            await self._app(scope, receive_and_count, send_unless_over)
        finally:
            if is_over and not has_started:
                await self._refusal().response()(scope, receive, send)

    def _refusal(self) -> ApiError:
        return too_large(f"the body is over the server's limit of {self._max_body_bytes} bytes")
