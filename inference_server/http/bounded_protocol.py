"""HTTP/1.1 with a limit on the parts of a request that are not its body (URL, header lines, trailers), and no HTTP/2.

uvicorn's setting for this, ``h11_max_incomplete_event_size``, applies only to its parser h11, which holds
up the event loop for half a second over 256 KB in chunks of one byte; httptools takes 50 times less but
has no limit.

Clients that also speak HTTP/2, such as Java's, offer it with ``Upgrade: h2c``. httptools then takes the body for bytes of
the other protocol, and uvicorn answers as if there were none.
"""

from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
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

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        """See uvicorn's."""
        super().__init__(config, *args, **kwargs)
        self.parser = _Parser(self)  # type: ignore[assignment]  # has the same methods

    def declines_upgrade(self) -> bool:
        """Whether the request whose head has been read asks for another protocol and gets HTTP/1.1 (RFC 9110, 7.8)."""
        return any(name == b"upgrade" for name, _ in self.headers) and not self._should_upgrade()

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
        if self.parser.should_upgrade() and self.declines_upgrade():
            return  # its head comes again
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hands a piece of the body on."""
        self._num_held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends the body."""
        self._num_held = 0
        if self.parser.should_upgrade() and self.declines_upgrade():
            return
        super().on_message_complete()


class _Parser:
    """httptools' parser, which reads a request whose upgrade is declined as if it did not ask for one."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol
        self._parser = self._new_parser()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        """Parses what has arrived."""
        unread = memoryview(data)
        while unread:
            try:
                self._parser.feed_data(unread)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if not self._protocol.declines_upgrade():
                    raise
                head = self._head()
                unread = unread[upgrade.args[0] :]
            self._parser = self._new_parser()
            self._parser.feed_data(head)

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self._protocol)
        # As uvicorn sets it.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _head(self) -> bytes:
        """The head of the last request, without the header of its upgrade."""
        version = self._parser.get_http_version().encode()
        lines = [self._parser.get_method() + b" " + self._protocol.url + b" HTTP/" + version]
        lines += [
            b": ".join(header) for header in self._protocol.headers if header[0] != b"upgrade"
        ]
        return b"\r\n".join([*lines, b"", b""])


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
