"""A TCP proxy in front of a real server that spoils exchanges by a seeded schedule, and keeps what the server sent.

It knows enough of HTTP/1.1 to tell where a message ends; it spoils answers as raw bytes.
"""

import asyncio
import json
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

_HEAD_END = b"\r\n\r\n"
_LIMIT_BYTES = 2**20
_NOISE_BYTES = 24
_GENERATE = "/v1/arms/generate"


class Fault(StrEnum):
    REFUSE = "refuse"
    """The connection is reset before the request is passed on."""
    RESET = "reset"
    """The connection is reset within the answer."""
    TRUNCATE = "truncate"
    """The answer ends early, and the connection is closed in the normal way."""
    GARBAGE = "garbage"
    """Some bytes of the answer are replaced by noise."""
    DELAY = "delay"
    """The answer is whole, but late."""
    HANG = "hang"
    """The answer never comes."""
    STATUS = "status"
    """The proxy itself answers with a status 5xx."""


@dataclass(kw_only=True)
class Schedule:
    """Which exchanges are spoilt, and how: the same for the same seed."""

    seed: int
    rate: float
    """Share of the exchanges that are spoilt."""
    faults: tuple[Fault, ...] = tuple(Fault)
    delay_s: float = 0.3
    hang_s: float = 60.0
    """Longer than any client waits."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def next(self) -> Fault | None:
        return self.rng.choice(self.faults) if self.rng.random() < self.rate else None


@dataclass(kw_only=True)
class Exchange:
    path: str
    fault: Fault | None
    request: bytes
    answer: bytes
    """The body as the server sent it; empty if the server was not asked or sent no answer."""


@dataclass
class Proxy:
    """What a running proxy has done; `exchanges` grows."""

    url: str
    schedule: Schedule
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def injected(self) -> Counter[Fault]:
        return Counter(e.fault for e in self.exchanges if e.fault is not None)

    def groups(self, *, delivered: bool) -> list[dict[str, Any]]:
        """Groups that the server generated: those of answers that were passed on whole, or those of the others."""
        groups = []
        for exchange in self.exchanges:
            whole = exchange.fault in (None, Fault.DELAY)
            if exchange.path == _GENERATE and whole == delivered:
                # Each line of the stream is a chunk of its own.
                lines = exchange.answer.splitlines()
                groups += [json.loads(line) for line in lines if line.startswith(b'{"id"')]
        return groups


class _Relay:
    """One client's connection."""

    def __init__(self, proxy: Proxy, host: str, port: int):
        self._proxy = proxy
        self._upstream = (host, port)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await _read_message(reader)) is not None:
                server = server or await asyncio.open_connection(
                    *self._upstream, limit=_LIMIT_BYTES
                )
                if not await self._exchange(request, server, writer):
                    return
        except (OSError, asyncio.IncompleteReadError):
            _reset(writer)  # One side is gone, so the other is closed too.
        except asyncio.CancelledError:
            """The test is over."""
        finally:
            for side in (writer, *([server[1]] if server else [])):
                side.close()
                with suppress(OSError):
                    await side.wait_closed()

    async def _exchange(
        self,
        request: bytes,
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        client: asyncio.StreamWriter,
    ) -> bool:
        """Pass on one exchange or spoil it; returns whether the connection can go on."""
        schedule = self._proxy.schedule
        fault = schedule.next()
        exchange = Exchange(
            path=urlsplit(request.split(b" ", 2)[1].decode()).path,
            fault=fault,
            request=request,
            answer=b"",
        )
        self._proxy.exchanges.append(exchange)
        if fault is Fault.REFUSE:
            _reset(client)
            return False
        if fault is Fault.STATUS:
            status = schedule.rng.choice((500, 502, 503))
            client.write(b"HTTP/1.1 %d x\r\nContent-Length: 4\r\n\r\noops" % status)
            await client.drain()
            return True
        server[1].write(request)
        await server[1].drain()
        answer = await _read_message(server[0])
        if answer is None:
            _reset(client)
            return False
        _, exchange.answer = answer.split(_HEAD_END, 1)
        if fault is Fault.HANG:
            await asyncio.sleep(schedule.hang_s)
            return False
        if fault is Fault.DELAY:
            await asyncio.sleep(schedule.rng.uniform(0, schedule.delay_s))
        if fault is Fault.GARBAGE:
            # So many bytes that the result cannot pass for a valid answer.
            start = schedule.rng.randrange(len(answer) - _NOISE_BYTES)
            noise = schedule.rng.randbytes(_NOISE_BYTES)
            answer = answer[:start] + noise + answer[start + _NOISE_BYTES :]
        if fault in (Fault.RESET, Fault.TRUNCATE):
            client.write(answer[: schedule.rng.randrange(len(answer))])
            await client.drain()
            if fault is Fault.RESET:
                _reset(client)
            return False
        client.write(answer)
        await client.drain()
        return True


async def _read_message(reader: asyncio.StreamReader) -> bytes | None:
    """A whole request or answer; None at the end of the connection."""
    try:
        head = await reader.readuntil(_HEAD_END)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    if headers.get(b"transfer-encoding", b"").lower() != b"chunked":
        return head + await reader.readexactly(int(headers.get(b"content-length", 0)))
    body = b""
    while True:
        size = await reader.readuntil(b"\r\n")
        body += size + await reader.readexactly(int(size, 16) + 2)
        if int(size, 16) == 0:
            return head + body


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def faulty_proxy(upstream: str, schedule: Schedule) -> Iterator[Proxy]:
    """A proxy that is gone after the block."""
    target = urlsplit(upstream)
    assert target.hostname is not None
    assert target.port is not None
    host, port = target.hostname, target.port
    ready, loop = threading.Event(), asyncio.new_event_loop()
    proxy = Proxy("", schedule)

    async def serve() -> None:
        relay = _Relay(proxy, host, port)
        async with await asyncio.start_server(relay, "127.0.0.1", 0, limit=_LIMIT_BYTES) as server:
            proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()
            with suppress(asyncio.CancelledError):
                await server.serve_forever()

    task = loop.create_task(serve())

    def run() -> None:
        loop.run_until_complete(task)
        for left in asyncio.all_tasks(loop):
            left.cancel()
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(left)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(300)
        yield proxy
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
