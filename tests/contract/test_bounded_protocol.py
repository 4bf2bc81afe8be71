"""What comes before a request's body is bounded while it arrives, before any middleware sees the request."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from inference_server.http.bounded_protocol import MAX_HEAD_BYTES, BoundedProtocol

PIECE = 2**12
MAX_PIECES = 1000


class Connection(asyncio.Transport):
    """The server's side of a connection to a small app, without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.received = b""
        self.is_closed = False
        self.paths: list[str] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.body_lengths: list[int] = []
        config = Config(self._app, interface="asgi3", lifespan="off", log_config=None, ws="none")
        config.load()
        self.protocol = BoundedProtocol(config, ServerState(), {})
        self.protocol.connection_made(self)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        self.headers.append(dict(scope["headers"]))
        num_bytes, more = 0, True
        while more:
            message = await receive()
            num_bytes += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.body_lengths.append(num_bytes)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.received += bytes(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        if not self.is_closed:
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def many(text: bytes) -> bytes:
    return text * (PIECE // len(text))


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS: Mapping[str, tuple[bytes, bytes]] = {
    "URL": (b"GET /", many(b"a")),
    "query": (b"GET /?", many(b"a=b&")),
    "one header": (b"GET / HTTP/1.1\r\nX: ", many(b"a")),
    "a header's name": (b"GET / HTTP/1.1\r\n", many(b"a")),
    "many headers": (b"GET / HTTP/1.1\r\n", many(b"a: b\r\n")),
    "empty lines": (b"", many(b"\r\n")),
    "headers of the second request": (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n",
        many(b"a: b\r\n"),
    ),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", many(b"a: b\r\n")),
    "one trailer": (CHUNKED + b"1\r\nx\r\n0\r\na: ", many(b"a")),
    "a chunk's extension": (CHUNKED + b"1;", many(b"a")),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_an_endless_head_ends_the_connection(name: str) -> None:
    start, piece = ENDLESS[name]
    connection = Connection()
    connection.protocol.data_received(start)
    await asyncio.sleep(0)
    num_sent = 0
    while not connection.is_closed and num_sent < MAX_PIECES * PIECE:
        connection.protocol.data_received(piece)
        num_sent += len(piece)
        await asyncio.sleep(0)
    assert connection.is_closed
    assert num_sent <= MAX_HEAD_BYTES + PIECE
    if start.startswith(b"GET") and "second" not in name:
        assert connection.received.startswith(b"HTTP/1.1 431 ")
        assert b'"type":"too_large"' in connection.received
        assert connection.paths == []


@pytest.mark.parametrize(
    ("request_bytes", "body_length"),
    [
        (b"GET / HTTP/1.1\r\nCookie: " + b"a" * (MAX_HEAD_BYTES - 100) + b"\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nContent-Length: 500000\r\n\r\n" + b"a" * 500_000, 500_000),
        (CHUNKED + b"1\r\na\r\n" * 100_000 + b"0\r\nx: y\r\n\r\n", 100_000),
    ],
    ids=["large head", "large body", "many chunks"],
)
async def test_requests_within_the_limit_are_answered_one_after_the_other(
    request_bytes: bytes, body_length: int
) -> None:
    connection = Connection()
    for _ in range(2):
        for start in range(0, len(request_bytes), PIECE):
            connection.protocol.data_received(request_bytes[start : start + PIECE])
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
    assert connection.body_lengths == [body_length] * 2
    assert connection.received.count(b"200 OK") == 2
    connection.close()


H2C = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQ\r\nX: y\r\n"


@pytest.mark.parametrize("piece", [1, 7, 10**6])
@pytest.mark.parametrize(
    ("request_bytes", "body_length"),
    [
        (b"GET /a HTTP/1.1\r\n" + H2C + b"\r\n", 0),
        (b"POST /a HTTP/1.1\r\n" + H2C + b"Content-Length: 500\r\n\r\n" + b"a" * 500, 500),
        (b"PUT /a HTTP/1.1\r\n" + H2C + b"Content-Length: 0\r\n\r\n", 0),
        (b"POST /a HTTP/1.1\r\n" + H2C + CHUNKED[26:] + b"1\r\na\r\n" * 9 + b"0\r\n\r\n", 9),
        (
            b"POST /a HTTP/1.1\r\nX: y\r\nUpgrade: TLS/1.2\r\nConnection: upgrade\r\n"
            b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nab",
            2,
        ),
    ],
    ids=["GET", "POST", "empty", "chunked", "two headers"],
)
async def test_an_offer_of_another_protocol_is_declined(
    request_bytes: bytes, body_length: int, piece: int
) -> None:
    """The request is answered as without it (RFC 9110, 7.8), and so are those after it on the connection."""
    connection = Connection()
    for start in range(0, len(request_bytes) * 2, piece):
        connection.protocol.data_received((request_bytes * 2)[start : start + piece])
        await asyncio.sleep(0)
    connection.protocol.data_received(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n")
    for _ in range(20):
        await asyncio.sleep(0)
    assert connection.paths == ["/a", "/a", "/b"]
    assert connection.body_lengths == [body_length, body_length, 0]
    assert [headers.get(b"x") for headers in connection.headers] == [b"y", b"y", None]
    assert connection.received.count(b"200 OK") == 3
    connection.close()


async def test_many_offers_at_once_are_declined_one_after_the_other() -> None:
    connection = Connection()
    connection.protocol.data_received((b"GET / HTTP/1.1\r\n" + H2C + b"\r\n") * 2000)
    while len(connection.paths) < 2000:  # noqa: ASYNC110
        await asyncio.sleep(0)
    connection.close()


@pytest.mark.parametrize("offer", [b"", H2C])
async def test_a_tunnel_is_refused_with_and_without_an_offer(offer: bytes) -> None:
    connection = Connection()
    connection.protocol.data_received(b"CONNECT a:1 HTTP/1.1\r\n" + offer + b"\r\nxyz")
    await asyncio.sleep(0)
    assert connection.received.startswith(b"HTTP/1.1 400 ")
    assert connection.is_closed
