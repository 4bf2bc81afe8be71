"""POST /v1/arms/generate with stream: one line per group, sent as soon as it is finished."""

import asyncio
import json
from dataclasses import replace

import pytest
import zstandard
from fastapi import FastAPI

from inference_server.engine import EngineAdapter, EngineCompletion, EngineDied, Sampling
from inference_server.errors import EngineUnavailable
from inference_server.service import Service
from inference_server.wire.errors import ErrorResponse
from inference_server.wire.schemas import ArmGroup, ArmsRequest, ArmsResponse
from inference_server.wire.streams import StreamedCompletion, StreamEnd
from tests.contract.client import Client, Connection
from tests.contract.fake_engine import FakeEngine

QUESTIONS = [{"id": name, "question": f"{name}?"} for name in ("a", "b", "c")]


def lines_of(text: str) -> tuple[list[ArmGroup], StreamEnd | ErrorResponse]:
    *groups, last = text.splitlines()
    end = ErrorResponse if "error" in json.loads(last) else StreamEnd
    return [ArmGroup.model_validate_json(line) for line in groups], end.model_validate_json(last)


async def test_a_stream_holds_what_the_whole_answer_holds(client: Client) -> None:
    await client.put_adapter(4)
    whole = ArmsResponse.model_validate(
        (await client.arms(questions=QUESTIONS, seed=1, score=True)).json()
    )
    response = await client.arms(questions=QUESTIONS, seed=1, score=True, stream=True)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/x-ndjson"
    groups, end = lines_of(response.text)
    assert sorted(groups, key=lambda group: group.id) == whole.groups
    assert isinstance(end, StreamEnd)
    assert (end.usage, end.policy_version, end.boot_id) == (whole.usage, 4, whole.boot_id)


@pytest.fixture
def held_back(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Completions of the question "slow?" finish only when the returned event is set."""
    release = asyncio.Event()
    generate = engine.generate

    async def hold_back(
        prompt_token_ids: list[int],
        sampling: Sampling,
        adapter: EngineAdapter | None,
        replica: int | None,
    ) -> EngineCompletion:
        completion = await generate(prompt_token_ids, sampling, adapter, replica)
        if b"slow?" in bytes(prompt_token_ids):
            await release.wait()
        return completion

    monkeypatch.setattr(engine, "generate", hold_back)
    return release


def request_body(*questions: str) -> bytes:
    asked = [{"id": question, "question": question} for question in questions]
    return json.dumps({"questions": asked, "stream": True}).encode()


async def test_a_group_is_sent_before_slower_ones_are_finished(
    app: FastAPI, held_back: asyncio.Event
) -> None:
    connection = Connection(app, request_body("slow?", "quick?"))
    await connection.until(lambda: b"\n" in connection.body)
    (line,) = connection.body.splitlines()
    assert ArmGroup.model_validate_json(line).id == "quick?"
    held_back.set()
    await connection.task
    groups, end = lines_of(connection.body.decode())
    assert [group.id for group in groups] == ["quick?", "slow?"]
    assert isinstance(end, StreamEnd)


async def test_a_compressed_line_can_be_read_as_soon_as_it_is_sent(
    app: FastAPI, held_back: asyncio.Event
) -> None:
    headers = [(b"accept-encoding", b"zstd")]
    connection = Connection(app, request_body("slow?", "quick?"), headers)
    await connection.until(lambda: len(connection.sent) >= 2)
    assert (b"content-encoding", b"zstd") in connection.sent[0]["headers"]
    reader = zstandard.ZstdDecompressor().decompressobj()
    line = reader.decompress(connection.body)
    assert line.endswith(b"\n")
    assert ArmGroup.model_validate_json(line).id == "quick?"
    held_back.set()
    await connection.task


async def test_completions_are_sent_before_their_group_where_they_are_asked_for(
    app: FastAPI, client: Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.put_adapter(4)
    release, generate = asyncio.Event(), engine.generate

    async def hold_back(
        prompt_token_ids: list[int],
        sampling: Sampling,
        adapter: EngineAdapter | None,
        replica: int | None,
    ) -> EngineCompletion:
        completion = await generate(prompt_token_ids, sampling, adapter, replica)
        if sampling.temperature > 0.3:
            await release.wait()
        return completion

    monkeypatch.setattr(engine, "generate", hold_back)
    asked = {"questions": QUESTIONS[:1], "stream": True, "score": True, "return_tokens": False}
    connection = Connection(app, json.dumps(asked).encode(), query=b"completions=true")
    await connection.until(lambda: connection.body.count(b"\n") == 4)
    release.set()
    await connection.task
    *lines, group, end = connection.body.splitlines()
    sent = [StreamedCompletion.model_validate_json(line) for line in lines]
    assert [(one.id, one.policy_version) for one in sent] == [("a", 4)] * 8
    assert {one.completion.temperature for one in sent[:4]} == {0.2, 0.3}
    whole = ArmGroup.model_validate_json(group)
    assert sorted((one.completion for one in sent), key=lambda arm: arm.arm) == sorted(
        whole.arms, key=lambda arm: arm.arm
    )
    assert whole.arms[0].token_ids == []
    assert StreamEnd.model_validate_json(end).policy_version == 4


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_whole_answer_is_compressed_where_the_client_accepts_it(
    client: Client, encoding: str
) -> None:
    plain, packed = [
        await client.post(
            "/v1/arms/generate",
            json={"questions": QUESTIONS, "seed": 1},
            headers={"Accept-Encoding": accepted},
        )
        for accepted in ("identity", encoding)
    ]
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == encoding
    assert int(packed.headers["Content-Length"]) < len(plain.content) / 2
    assert packed.json()["groups"] == plain.json()["groups"]


async def test_heartbeats_come_while_the_engine_answers(
    app: FastAPI, held_back: asyncio.Event, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, checks = asyncio.Event(), 0

    async def check_engine(self: Service) -> None:
        nonlocal checks
        checks += 1
        if not answers.is_set():
            raise EngineUnavailable("it hangs")

    monkeypatch.setattr(Service, "check_engine", check_engine)
    connection = Connection(app, request_body("slow?"), query=b"heartbeat_s=0.1")
    await connection.until(lambda: checks == 2)
    assert connection.body == b""
    answers.set()
    await connection.until(lambda: connection.body == b"\n\n")
    held_back.set()
    await connection.task
    group, end = connection.body.strip().splitlines()
    assert ArmGroup.model_validate_json(group).id == "slow?"
    StreamEnd.model_validate_json(end)
    assert service.generator.num_groups_in_flight == 0


async def test_a_client_that_asks_for_no_heartbeats_gets_no_empty_line(client: Client) -> None:
    for query in ("", "?heartbeat_s=10"):
        answer = await client.post(
            f"/v1/arms/generate{query}", json={"questions": QUESTIONS, "stream": True}
        )
        assert all(answer.text.splitlines())
        assert answer.headers["X-Accel-Buffering"] == "no"


@pytest.mark.parametrize("heartbeat_s", ["0", "-1", "nan", "inf", "x", "1e9"])
async def test_a_heartbeat_that_is_none_is_refused(client: Client, heartbeat_s: str) -> None:
    answer = await client.post(
        f"/v1/arms/generate?heartbeat_s={heartbeat_s}", json={"questions": ["?"]}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "heartbeat_s"


async def test_a_client_that_leaves_a_stream_has_the_rest_aborted(
    app: FastAPI, client: Client, engine: FakeEngine, service: Service
) -> None:
    await client.put_adapter(1)
    engine.open.clear()
    connection = Connection(app, request_body("a?", "b?"))
    await engine.reaches(16, "policy-000001")
    connection.leave()
    await connection.task
    assert engine.num_aborted == 16
    assert service.adapters.get(1).num_leases == service.generator.num_groups_in_flight == 0


async def test_an_error_under_way_is_the_last_line(
    client: Client, engine: FakeEngine, service: Service
) -> None:
    engine.break_completion = lambda completion: replace(completion, logprobs=[-1.0])
    response = await client.arms(questions=QUESTIONS, stream=True)
    groups, end = lines_of(response.text)
    assert groups == []
    assert isinstance(end, ErrorResponse)
    assert (end.error.type, "1 logprobs for 8 tokens" in end.error.message) == ("engine", True)
    assert service.generator.num_groups_in_flight == 0


async def test_an_engine_that_dies_under_way_is_the_last_line(
    client: Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object) -> None:
        raise EngineDied("it was killed")

    monkeypatch.setattr(engine, "generate", die)
    response = await client.arms(stream=True)
    _, end = lines_of(response.text)
    assert isinstance(end, ErrorResponse)
    assert (response.status_code, end.error.type) == (200, "engine")


async def test_what_can_be_refused_at_once_is_no_stream(client: Client) -> None:
    response = await client.arms(stream=True, policy=9)
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/json"


def test_every_field_of_a_request_has_a_default_but_the_questions() -> None:
    assert set(ArmsRequest.model_json_schema()["required"]) == {"questions"}
