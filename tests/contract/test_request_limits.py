"""What one request may cost: counts and characters before tokens, half characters, readers that stall."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.types import Message

from inference_server.arms import request as arms_request
from inference_server.errors import InvalidRequest
from inference_server.http import streaming
from inference_server.http.json_body import (
    MAX_PARTS,
    MAX_UNQUOTED_BYTES,
    MAX_VALUES,
    PartCount,
    check_json,
)
from inference_server.service import Service
from inference_server.settings import Settings
from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.schemas import MAX_QUESTIONS, ArmsRequest
from tests.contract.client import Client, Connection
from tests.contract.fake_engine import FakeEngine

HALF = "\ud83d"
ARM = {"name": "a", "system_prompt": "", "temperature": 1.0, "top_p": 1.0}
CONTEXT = 600  # of the fake engine


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_completions": 20})


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"questions": ["1", "2", "3"]}, "questions", "takes 20 completions a request"),
        ({"questions": ["1", "2"], "samples_per_arm": 2}, "questions", "2 questions × 8 arms × 2"),
        ({"questions": ["?", "x" * 16 * CONTEXT]}, "questions.1", "question 'q1': the prompt has"),
        (
            {"arms": [{**ARM, "system_prompt": "x" * 16 * CONTEXT}]},
            "questions.0",
            "model's context of 600 tokens",
        ),
        ({"questions": ["x" * 1000] * 2}, "questions", "characters; the server takes 3000"),
        ({"questions": ["?"] * (MAX_QUESTIONS + 1)}, "questions", "at most 4096 items"),
        ({"arms": [ARM] * 65}, "arms", "at most 64 items"),
    ],
)
async def test_what_is_too_much_is_refused_before_it_is_tokenized(
    client: Client,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    body: dict[str, Any],
    param: str,
    words: str,
) -> None:
    monkeypatch.setattr(arms_request, "MAX_PROMPT_CHARS", 3000)
    response = await client.arms(**body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert words in error["message"]
    assert engine.num_encoded == 0


async def test_the_largest_request_is_served(client: Client) -> None:
    arms = [{**ARM, "name": f"a{index}"} for index in range(20)]
    response = await client.arms(arms=arms)
    assert [arm["arm"] for arm in response.json()["groups"][0]["arms"]] == [
        arm["name"] for arm in arms
    ]
    assert (await client.get("/v1/status")).json()["limits"]["max_completions"] == 20


@pytest.mark.parametrize(
    "body",
    [
        {"questions": [1] * 10_000},
        {"questions": [[]] * 10_000},
        {"questions": [{"id": 1}] * 10_000},
        {"questions": ["?"], "arms": [1] * 10_000},
        {"questions": ["?"], "stop": [1] * 10_000},
    ],
    ids=["numbers", "lists", "objects", "arms", "stop texts"],
)
def test_a_list_fails_on_its_first_error(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refusal:
        ArmsRequest.model_validate(body)
    assert refusal.value.error_count() < 20


class Tokenizer:
    """The fake engine's tokenizer, made to work until it is told to end."""

    def __init__(self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encode = engine.encode
        self.num_asked = 0
        self.may_end = asyncio.Event()
        monkeypatch.setattr(engine, "encode", self.encode_slowly)

    async def encode_slowly(
        self, prompts: Sequence[Prompt], prompt_format: PromptFormat
    ) -> list[list[int]]:
        self.num_asked += len(prompts)
        await self.may_end.wait()
        return await self.encode(prompts, prompt_format)


async def test_a_client_that_leaves_ends_the_tokenizing(
    app: FastAPI, engine: FakeEngine, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer(engine, monkeypatch)
    arms = [{**ARM, "name": f"a{index}", "system_prompt": f"{index}"} for index in range(20)]
    for stream in (False, True):
        body = {"questions": ["?"], "arms": arms, "stream": stream}
        connection = Connection(app, json.dumps(body).encode())
        await connection.until(lambda: tokenizer.num_asked)
        assert service.generator.num_groups_in_flight == 1
        connection.leave()
        await connection.task
        assert connection.sent[0]["status"] == 499
        assert service.generator.num_groups_in_flight == 0
        assert 0 < tokenizer.num_asked < len(arms)  # the others were never begun
        tokenizer.num_asked = 0


async def test_tokenizing_counts_towards_the_deadline(
    client: Client, engine: FakeEngine, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tokenizer(engine, monkeypatch)
    response = await client.arms(timeout_s=0.05)
    assert (response.status_code, response.json()["error"]["type"]) == (408, "timeout")
    assert service.generator.num_groups_in_flight == 0


class StalledConnection(Connection):
    """A client that does not read: what is sent to it never arrives."""

    async def _send(self, message: Message) -> None:
        await super()._send(message)
        await asyncio.Event().wait()


async def test_a_stream_that_nobody_reads_gives_its_places_back(
    app: FastAPI, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "LAST_LINE_WITHIN_S", 0.0)
    body = {"questions": ["1", "2"], "stream": True, "timeout_s": 0.05}
    connection = StalledConnection(app, json.dumps(body).encode())
    await connection.until(lambda: connection.sent)
    await connection.task
    assert service.generator.num_groups_in_flight == 0


@pytest.mark.parametrize("path", ["/v1/arms/generate", "/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stop": HALF}, "stop"),
        ({"request_id": HALF}, "request_id"),
        ({"questions": [{"id": "1", "question": f"a{HALF}b"}]}, "questions.0.question"),
        ({"arms": [{**ARM, "name": "\ude00\ud83d"}]}, "arms.0.name"),
        ({HALF: 1}, None),
        ({"x": {"y": [{HALF: 1}]}}, "x.y.0"),
    ],
)
async def test_half_a_character_is_refused_on_every_route(
    client: Client, engine: FakeEngine, path: str, body: dict[str, Any], param: str | None
) -> None:
    response = await client.post(
        path, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert "half of a surrogate pair" in error["message"]
    assert not engine.samplings


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"stop": "\xed\xa0\xbd"}', "not UTF-8"),
        (b"\xff", "not UTF-8"),
        (json.dumps({"stop": HALF}).encode("utf-16"), "not UTF-8"),
        ('{"stop": "\ud83d"}'.encode("utf-16-le", "surrogatepass"), "not UTF-8"),
        (b'{"stop": "\\\\\\ud83d"}', "half of a surrogate"),
        (b"\xef\xbb\xbf" + json.dumps({"stop": HALF}).encode(), "half of a surrogate"),
        (json.dumps([1] * MAX_VALUES).encode(), "more than 20480 values"),
        (json.dumps({"messages": [[1] * 200] * 200}).encode(), "messages"),
        (json.dumps({"prompt": ["a"] * MAX_VALUES}).encode(), "prompt: the body holds more"),
        (json.dumps({f"k{index}": 1 for index in range(MAX_VALUES)}).encode(), "more than"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"stop": ["a"], "seed": 1, "stop": []}', "key 'stop' is given twice"),
        (b'{"timeout_s": NaN}', "key 'timeout_s' is NaN, which JSON does not have"),
        (b'{"messages": [{"content": -Infinity}]}', "key 'content' is -Infinity"),
        (b"[Infinity]", "the body: a value is Infinity"),
        (b'{"messages": [{"role": "user", "r\\u006fle": "system"}]}', "key 'role' is given twice"),
    ],
    ids=lambda value: str(value[:24]),
)
def test_bodies_that_no_route_should_read(body: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        check_json(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a": ',
        json.dumps({"question": "\U0001f600"}).encode(),
        json.dumps({"question": "\U0001f600"}, ensure_ascii=False).encode(),
        b'{"a": "\\\\ud83d"}',
        json.dumps({"prompt": [1] * 100_000}).encode(),
        json.dumps({"prompt": [[1] * 10_000] * 10}).encode(),
        json.dumps({"question": "x" * 100_000}).encode(),
        json.dumps(
            {"questions": [{"id": str(i), "question": "?", "gold": "1"} for i in range(4096)]}
        ).encode(),
    ],
    ids=lambda value: str(value[:24]),
)
def test_other_bodies_are_their_routes_business(body: bytes) -> None:
    check_json(body)
    PartCount().add(body)


TOO_MUCH = {
    "numbers": b"1," * MAX_PARTS,
    "texts": b'"",' * (MAX_PARTS // 2),
    "lists": b"[" * 900 + b"]" * 900 + b",",
    "objects": b'{"":' * 300 + b"1" + b"}" * 300,
    "numbers of many digits": b"1" * 4000 + b",",
    "white space": b"\n" * 10_000,
}


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_a_body_that_takes_long_to_parse_is_refused_as_it_arrives(
    client: Client, name: str
) -> None:
    item = TOO_MUCH[name]

    async def body() -> AsyncIterator[bytes]:
        yield b'{"prompt": ['
        for _ in range(MAX_UNQUOTED_BYTES // len(item) + 2):
            yield item
        raise AssertionError("all of it was read")

    response = await client.post(
        "/v1/completions", content=body(), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400
    assert f"over {MAX_PARTS} values" in response.json()["error"]["message"]


@pytest.mark.parametrize("num_bytes", [1, 2, 3, 7, 100])
def test_what_is_in_a_text_counts_as_one_value(num_bytes: int) -> None:
    def is_over(body: bytes, *, num_free: int) -> bool:
        count = PartCount()
        count.add(b"," * (MAX_PARTS - num_free))
        try:
            for start in range(0, len(body), num_bytes):
                count.add(body[start : start + num_bytes])
        except InvalidRequest:
            return True
        return False

    body = json.dumps({"a,b": ["[{,", '\\"', "\\\\", '\\\\","', ""], "c": 1}).encode()
    # An object, two keys, a list with five texts, and five commas between them.
    num_parts = 1 + 2 + 1 + 5 + 5
    assert is_over(body, num_free=num_parts - 1)
    assert not is_over(body, num_free=num_parts)
