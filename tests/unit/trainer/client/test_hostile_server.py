"""A server, or something in its place, whose answers are endless, oversized or senseless."""

import asyncio
import gzip
import json
import os
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from itertools import repeat

import httpx
import pytest
import stamina
import zstandard
from pydantic import ValidationError

from inference_server.wire.schemas import ArmCompletion, ArmsRequest
from inference_server.wire.streams import NDJSON
from trainer.client import http, responses
from trainer.client.arms_client import ArmsClient
from trainer.client.ask_groups import LostError, ask_again
from trainer.config.sections import ServerConfig
from trainer.errors import ServerError, ServerRejectedError, ServerUnreachableError

URL = "http://server.test:8000"
BOMB = bytes(2**22)
REQUEST = httpx.Request("GET", URL)


@pytest.fixture(autouse=True)
def _one_attempt() -> Iterator[None]:
    with stamina.set_testing(True, attempts=1):
        yield


def client(answer: httpx.Response, **settings: float) -> ArmsClient:
    config = ServerConfig.model_validate({"url": URL, **settings})
    return ArmsClient(config, httpx.MockTransport(lambda _: answer))


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("3", 3.0),
        (" 3 ", 3.0),
        ("86400", 60.0),
        ("9" * 400, 0.0),
        ("\u00b2", 0.0),
        ("\u0663", 0.0),
        ("-1", 0.0),
        ("1e9", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_and_bounded(given: str, seconds: float) -> None:
    response = httpx.Response(503, headers=[(b"Retry-After", given.encode())])
    assert responses.retry_after_s(response) == seconds


async def test_no_wait_is_longer_than_the_patience() -> None:
    answer = httpx.Response(503, headers={"Retry-After": "86400"})
    started = time.monotonic()
    with stamina.set_testing(False):
        async with client(answer, give_up_after_s=0.3) as connected:
            with pytest.raises(ServerUnreachableError):
                await connected.status()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", gzip.compress(BOMB)),
        ("deflate", zlib.compress(BOMB)),
        ("zstd", zstandard.ZstdCompressor().compress(BOMB)),
        ("identity", BOMB),
    ],
)
async def test_a_body_is_measured_as_it_is_decompressed(encoding: str, content: bytes) -> None:
    answer = httpx.Response(
        200, headers={"Content-Encoding": encoding}, content=pieces(content), request=REQUEST
    )
    taken: list[int] = []

    async def read() -> None:
        taken.extend([len(part) async for part in responses.read_body(answer, 1_000_000)])

    with pytest.raises(responses.InvalidResponseError, match="more than 1000000 bytes"):
        await read()


NO_TEXT = b"\xff\xfe"


@pytest.mark.parametrize(
    ("status", "header"),
    [
        (200, (b"Content-Type", NO_TEXT)),
        (503, (b"Retry-After", NO_TEXT)),
        (503, (b"Content-Encoding", NO_TEXT)),
        (503, (b"Set-Cookie", b"a=" + NO_TEXT)),
        (307, (b"Location", NO_TEXT)),
        (307, (b"Location", b"http://a.test:8x/")),
        (307, (b"Location", b"ttp:x")),
        (301, (b"Location", b"http://xn--a/")),
        (302, (b"Location", b"//xn--a/y")),
    ],
)
async def test_headers_that_the_network_has_changed_are_a_fault_like_others(
    status: int, header: tuple[bytes, bytes]
) -> None:
    with stamina.set_testing(True, attempts=2):
        async with client(httpx.Response(status, headers=[header], content=b"{}")) as connected:
            with pytest.raises(ServerError):
                await connected.status()


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "compress", "\x1b[2J"])
async def test_an_encoding_that_was_not_asked_for_is_refused(encoding: str) -> None:
    headers = [(b"Content-Encoding", encoding.encode())]
    answer = httpx.Response(200, headers=headers, content=pieces(b"{}"), request=REQUEST)
    with pytest.raises(responses.InvalidResponseError, match="Content-Encoding") as caught:
        async for _ in responses.read_body(answer, 1000):
            pass
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_compressed_answer_is_read(encoding: str) -> None:
    text = bytes(range(256)) * 100
    packed = gzip.compress(text) if encoding == "gzip" else zstandard.compress(text)
    answer = httpx.Response(
        200, headers={"Content-Encoding": encoding}, content=pieces(packed), request=REQUEST
    )
    read = b"".join([part async for part in responses.read_body(answer, 10**6)])
    assert read == text


@pytest.mark.parametrize("body", [b"[" * 500_000, b'{"error":' * 100_000, b'{"a":' * 100_000])
@pytest.mark.parametrize("status", [200, 404, 503])
@pytest.mark.parametrize("content_type", [NDJSON, "application/json"])
async def test_deeply_nested_json_is_an_answer_of_no_use(
    body: bytes, status: int, content_type: str
) -> None:
    answer = httpx.Response(status, content=body, headers={"Content-Type": content_type})
    async with client(answer) as connected:
        with pytest.raises(ServerError):
            await connected.status()
        with pytest.raises(ServerError):
            await connected.generate(ArmsRequest(questions=["q"]))


async def test_a_stream_without_end_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def heartbeats() -> AsyncIterator[bytes]:
        for line in repeat(b"\n"):
            await asyncio.sleep(0.01)
            yield line

    monkeypatch.setattr(http, "_LONGEST_ANSWER_S", 0.3)
    answer = httpx.Response(200, content=heartbeats(), headers={"Content-Type": NDJSON})
    async with client(answer) as connected, asyncio.timeout(20):
        with pytest.raises(ServerUnreachableError):
            await connected.generate(ArmsRequest(questions=["q"]))


async def test_a_stream_without_measure_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def much() -> AsyncIterator[bytes]:
        for line in repeat(b"x" * 65_536 + b"\n"):
            yield line

    monkeypatch.setattr("trainer.client.arms_client.MAX_BODY_BYTES", 2**20)
    answer = httpx.Response(200, content=much(), headers={"Content-Type": NDJSON})
    async with client(answer) as connected, asyncio.timeout(20):
        with pytest.raises(ServerError, match="more than"):
            await connected.generate(ArmsRequest(questions=["q"]))


async def test_a_refusal_carries_no_terminal_escapes() -> None:
    message = "no\x1b[2J\x9b31m\nway\u202e"
    for answer in (
        httpx.Response(400, json={"error": {"type": "t", "message": message}}),
        httpx.Response(400, text=message),
    ):
        async with client(answer) as connected:
            with pytest.raises(ServerRejectedError) as caught:
                await connected.status()
        said = str(caught.value)
        assert not {"\x1b", "\x9b", "\n", "\u202e"} & set(said)
        assert "way" in said


@pytest.mark.parametrize(
    ("url", "uses_proxy"),
    [
        ("http://127.0.0.1:1", False),
        ("http://127.9.9.9:1", False),
        ("http://localhost:1", False),
        ("http://[::1]:1", False),
        ("http://a.localhost:1", False),
        ("http://gpu-box:1", True),
    ],
)
async def test_loopback_goes_through_no_proxy(
    url: str, uses_proxy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    seen: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(1000))
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        config = ServerConfig.model_validate({"url": url, "api_key": "secret-key"})
        async with ArmsClient(config) as connected:
            with pytest.raises(ServerError):
                await connected.status()
    assert any(b"secret-key" in request for request in seen) is uses_proxy


async def test_lost_groups_are_not_asked_for_in_a_rush() -> None:
    num_asked = 0

    async def ask() -> None:
        nonlocal num_asked
        num_asked += 1
        raise LostError("aborted")

    with stamina.set_testing(False), pytest.raises(ServerUnreachableError):
        await asyncio.wait_for(ask_again(ask, give_up_after_s=1.5), 300)
    assert num_asked <= 4


COMPLETION = {
    "arm": "solo",
    "sample": 0,
    "text": "7",
    "finish_reason": "stop",
    "temperature": 0.0,
    "top_p": 1.0,
    "seed": None,
    "prompt_token_ids": [1],
    "token_ids": [7, 2],
    "logprobs": [-0.5, 0.0],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("temperature", value) for value in (-1.0, float("inf"), float("nan"), None)],
        *[("top_p", value) for value in (0.0, -0.5, 1.5, float("inf"), float("nan"))],
        *[("token_ids", [7, value]) for value in (-1, 0.5, None)],
        ("prompt_token_ids", [-1]),
        ("sample", -1),
    ],
)
def test_numbers_that_no_completion_has_are_no_completion(field: str, value: object) -> None:
    assert ArmCompletion.model_validate_json(json.dumps(COMPLETION)).temperature == 0
    with pytest.raises(ValidationError, match=field):
        ArmCompletion.model_validate_json(json.dumps({**COMPLETION, field: value}))
