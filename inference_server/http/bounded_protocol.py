"""HTTP/1.1 with a limit on what comes before a body: URL, header lines, trailers.

uvicorn's setting for it, ``h11_max_incomplete_event_size``, holds for its parser h11 alone, which takes
half a second of the event loop for 256 KB in chunks of one byte; httptools takes 50 times less and has
no limit.
"""

from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference_server.errors import TooLarge
from inference_server.http.errors import error_response

MAX_HEAD_BYTES = 2**16
"""Most bytes held of a request before its head is complete, and before a body's next piece; the bytes that
the connection had ready at once come on top, at most 256 KB."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection; a head over the limit is answered with 431 and ends it.

    This precedes every middleware, the key's among them: a request is one only when its head is complete.
    """

    _num_held = 0
    """Bytes received since the parser last handed anything on but lines of a head."""

    def data_received(self, data: bytes) -> None:
        """Parses what has arrived."""
        self._num_held += len(data)
        super().data_received(data)
        if self._num_held > MAX_HEAD_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_refusal())
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Starts the request."""
        self._num_held = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hands a piece of the body on."""
        self._num_held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends the body."""
        self._num_held = 0
        super().on_message_complete()


def _refusal() -> bytes:
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    body = bytes(
        error_response(
            TooLarge(f"URL and headers exceed the server's limit of {MAX_HEAD_BYTES} bytes")
        ).body
    )
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode() + body
