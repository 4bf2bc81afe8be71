"""HTTP/1.1 with a limit on the parts of a request that are not its body: URL, header lines, trailers.

uvicorn's setting for this, ``h11_max_incomplete_event_size``, applies only to its parser h11, which holds
up the event loop for half a second over 256 KB in chunks of one byte; httptools takes 50 times less but
has no limit.
"""

from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference_server.errors import TooLarge
from inference_server.http.errors import error_response

MAX_HEAD_BYTES = 2**16
"""Most bytes of a request that are held before its head is complete, or before the next piece of its body.
The bytes that the connection delivers at once, at most 256 KB, come on top."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection; a head over the limit is answered with 431 and ends it.

    This happens before any middleware runs, also the one that checks the key: there is no request until
    its head is complete.
    """

    _num_held = 0
    """Bytes received since the parser last handed on anything but header lines."""

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
