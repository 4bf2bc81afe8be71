"""Limits, deadlines, priorities, request ids, health and metrics."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from unittest.mock import ANY

import pytest
import structlog
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from safetensors.torch import save
from starlette.datastructures import Headers
from starlette.types import Message
from structlog.testing import capture_logs

from inference_server import service as service_module
from inference_server.http import request_log
from inference_server.service import Service
from inference_server.settings import Settings
from inference_server.wire.errors import ErrorResponse
from inference_server.wire.schemas import Priority
from tests.contract.client import Client, Connection, adapter_config, adapter_weights, started_app
from tests.contract.fake_engine import FakeEngine


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_body_bytes": 2000, "max_request_s": 20.0})


async def test_a_body_over_the_limit_is_refused_declared_or_not(
    client: Client, engine: FakeEngine
) -> None:
    body = json.dumps({"questions": ["x" * 3000]}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 500):
            yield body[start : start + 500]

    headers = {"Content-Type": "application/json"}
    for content in (body, chunks()):
        response = await client.post("/v1/arms/generate", content=content, headers=headers)
        error = ErrorResponse.model_validate(response.json()).error
        assert (response.status_code, error.type) == (413, "too_large")
        assert "2000 bytes" in error.message
    assert not engine.samplings


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    "content_type",
    [
        *("multipart/x", "multipart/form-data; boundary=b", "Multipart/Form-Data", "multipart/"),
        *("application/octet-stream", "text/plain", ""),
    ],
)
async def test_no_content_type_evades_the_limit_on_any_route(
    settings: Settings, method: str, content_type: str
) -> None:
    app = FastAPI()
    num_read = []

    @app.api_route("/v1/of-vllm", methods=["POST", "PUT"])
    async def read(request: Request) -> None:
        async for chunk in request.stream():
            num_read.append(len(chunk))

    await started_app(FakeEngine(), settings, app)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"x" * 500

    async with Client(app) as client:
        for content in (b"x" * 4000, chunks()):
            headers = {"Content-Type": content_type}
            response = await client.request(method, "/v1/of-vllm", content=content, headers=headers)
            assert (response.status_code, response.json()["error"]["type"]) == (413, "too_large")
    assert sum(num_read) <= 2000


async def test_only_a_form_is_an_upload(client: Client) -> None:
    for content_type in ("application/json", "multipart/mixed", "multipart/x"):
        response = await client.put(
            "/v1/adapters/1", content=b"x" * 4000, headers={"Content-Type": content_type}
        )
        assert response.status_code == 413


async def test_the_limit_is_not_one_of_uploads(client: Client) -> None:
    with capture_logs() as lines:
        assert (await client.put_adapter(1)).status_code == 201
    (line,) = (line for line in lines if line["event"] == "adapter_loaded")
    assert (line["version"], line["active"]) == (1, True)


@pytest.mark.parametrize(
    "given", ["Multipart/Form-Data; boundary=b", "multipart/form-data ;boundary=b"]
)
async def test_a_media_types_case_and_space_mean_nothing(client: Client, given: str) -> None:
    parts = {
        'name="adapter_config.json"; filename="c"': json.dumps(adapter_config()).encode(),
        'name="adapter_model.safetensors"; filename="w"': save(adapter_weights()),
        'name="sha256"': hashlib.sha256(save(adapter_weights())).hexdigest().encode(),
    }
    body = b"".join(
        b"--b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (name.encode(), content)
        for name, content in parts.items()
    )
    response = await client.put(
        "/v1/adapters/1", content=body + b"--b--\r\n", headers={"Content-Type": given}
    )
    assert response.status_code == 201, response.text
    path = {"path": "x", "sha256": "0" * 64}
    response = await client.put(
        "/v1/adapters/2", content=json.dumps(path), headers={"Content-Type": "Application/JSON"}
    )
    assert (response.status_code, response.json()["error"]["param"]) == (403, "path")


async def test_a_request_that_takes_too_long_is_aborted(
    client: Client, engine: FakeEngine, service: Service
) -> None:
    await client.put_adapter(1)
    engine.open.clear()
    response = await client.arms(timeout_s=0.05)
    assert (response.status_code, response.json()["error"]["type"]) == (408, "timeout")
    assert "timeout_s" in response.json()["error"]["message"]
    assert engine.num_aborted == 8
    assert service.adapters.get(1).num_leases == service.generator.num_groups_in_flight == 0


async def test_the_servers_own_limit_bounds_a_longer_one(
    client: Client, engine: FakeEngine, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = service.settings.model_copy(update={"max_request_s": 0.05})
    monkeypatch.setattr(service.generator, "_settings", short)
    engine.open.clear()
    assert (await client.arms(timeout_s=1000.0)).status_code == 408


async def test_rollouts_that_fill_their_places_leave_those_of_people(
    client: Client, engine: FakeEngine
) -> None:
    engine.open.clear()
    rollouts = [
        asyncio.create_task(client.arms(questions=["1", "2"], priority="rollout")) for _ in range(2)
    ]
    await engine.reaches(32)
    assert (await client.arms(priority="rollout")).status_code == 429
    person = asyncio.create_task(client.arms())
    await engine.reaches(40)
    assert [s.priority for s in engine.samplings] == [Priority.ROLLOUT] * 32 + [Priority.AD_HOC] * 8
    engine.open.set()
    assert {(await task).status_code for task in (*rollouts, person)} == {200}


async def test_chat_prompts_go_through_the_models_template(
    client: Client, engine: FakeEngine
) -> None:
    arm = {"name": "a", "system_prompt": "Be brief.", "temperature": 1.0, "top_p": 1.0}
    engine.has_template()
    for asked in ("chat", "auto"):
        (group,) = (await client.arms(prompt_format=asked, arms=[arm])).json()["groups"]
        assert bytes(group["arms"][0]["prompt_token_ids"]).decode() == "<Be brief.>1+1?:"
        assert group["prompt_format"] == "chat"
    assert {sampling.ends_turn for sampling in engine.samplings} == {True}
    assert (await client.get("/v1/status")).json()["has_chat_template"]


async def test_a_model_without_a_template_gets_plain_prompts(
    client: Client, engine: FakeEngine
) -> None:
    (group,) = (await client.arms()).json()["groups"]
    assert group["prompt_format"] == "plain"
    assert {sampling.ends_turn for sampling in engine.samplings} == {False}
    response = await client.arms(prompt_format="chat")
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "prompt_format")
    assert "there is none" in error["message"]


async def test_stop_strings_and_greedy_answers_reach_the_engine(
    client: Client, engine: FakeEngine
) -> None:
    asked = {"arms": ["wolfram_0"], "stop": ["\n\n", "Q:"], "seed": 4}
    for greedy in (True, False):
        (group,) = (await client.arms(**asked, greedy=greedy)).json()["groups"]
        assert group["stop"] == ["\n\n", "Q:"]
        (arm,) = group["arms"]
        sampling = engine.samplings[-1]
        assert sampling.stop == ("\n\n", "Q:")
        expected = (0.0, 1.0) if greedy else (0.2, 0.95)
        assert (sampling.temperature, sampling.top_p) == expected
        assert (arm["temperature"], arm["top_p"]) == expected
        assert (sampling.seed is None) is (arm["seed"] is None) is greedy


async def test_health_needs_no_key_and_asks_the_engine(
    client: Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "ENGINE_ANSWERS_WITHIN_S", 0.01)
    assert (await client.get("/health")).status_code == 200
    engine.hangs = True
    assert (await client.get("/health")).status_code == 503
    engine.hangs, engine.dead = False, True
    response = await client.get("/health")
    assert (response.status_code, response.json()["error"]["type"]) == (503, "engine")
    assert "dead" in response.json()["error"]["message"]


async def test_a_dead_engine_is_503(client: Client, engine: FakeEngine) -> None:
    engine.dead = True
    for response in (await client.arms(), await client.get("/v1/status")):
        assert (response.status_code, response.json()["error"]["type"]) == (503, "engine")


@pytest.mark.parametrize(
    ("given", "kept"),
    [("run-7.step:3", True), ("", False), ("a b", False), ("x" * 129, False), ('"\\', False)],
)
async def test_a_request_id_is_the_clients_or_a_new_one(
    client: Client, given: str, kept: bool
) -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        response = await client.get("/v1/adapters", headers={"X-Request-Id": given})
    request_id = response.headers["X-Request-Id"]
    assert (request_id == given) is kept
    assert len(request_id) == (len(given) if kept else 32)
    assert lines == [
        {
            "event": "request",
            "request_id": request_id,
            "method": "GET",
            "path": "/v1/adapters",
            "status": 200,
            "seconds": ANY,
            "log_level": "info",
        }
    ]


@pytest.mark.parametrize(
    ("method", "path", "content_type", "body"),
    [
        ("PUT", "/v1/adapters/1", "multipart/form-data; boundary=b", b"--b\r\nContent-Disp"),
        ("PUT", "/v1/adapters/1", "application/json", b'{"path": '),
        ("POST", "/v1/arms/generate", "application/json", b'{"questions": '),
        ("POST", "/v1/of-vllm", "text/plain", b"x"),
    ],
)
async def test_a_body_that_breaks_off_is_one_line_in_the_log(
    settings: Settings, method: str, path: str, content_type: str, body: bytes
) -> None:
    app = FastAPI()

    @app.post("/v1/of-vllm")
    async def read(request: Request) -> None:
        await request.body()

    await started_app(FakeEngine(), settings, app)
    messages: list[Message] = [
        {"type": "http.request", "body": body, "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", content_type.encode()), (b"host", b"localhost")],
        "http_version": "1.1",
    }
    with capture_logs() as lines:
        await app(scope, receive, send)
    assert [(line["path"], line["status"]) for line in lines] == [(path, 499)]
    assert sent == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_the_servers_stop_cancels_is_answered_if_it_was_not(
    app: FastAPI, engine: FakeEngine, stream: bool
) -> None:
    engine.open.clear()
    body = json.dumps({"questions": ["1+1?"], "stream": stream}).encode()
    connection = Connection(app, body, [(b"host", b"localhost")])
    await engine.reaches(8)
    with capture_logs() as lines:
        connection.task.cancel()  # as uvicorn does at the end of the drain
        await asyncio.wait([connection.task])
    if stream:
        assert connection.task.cancelled()
        return
    await connection.task
    start = connection.sent[0]
    assert (start["status"], Headers(raw=start["headers"])["Retry-After"]) == (503, "1")
    error = ErrorResponse.model_validate_json(connection.body).error
    assert (error.type, error.message.split()[:3]) == ("engine", ["the", "server", "stopped"])
    assert [line["status"] for line in lines] == [503]


async def test_every_answer_that_the_engine_is_unavailable_says_when_to_try_again(
    client: Client, engine: FakeEngine
) -> None:
    engine.dead = True
    response = await client.arms()
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


async def test_a_route_that_fails_is_logged_with_500(settings: Settings) -> None:
    app = FastAPI()

    @app.get("/v1/of-vllm")
    async def fail() -> None:
        raise ZeroDivisionError

    await started_app(FakeEngine(), settings, app)
    async with Client(app) as client:
        with capture_logs() as lines, pytest.raises(ZeroDivisionError):
            await client.get("/v1/of-vllm")
    assert [line["status"] for line in lines] == [500]


async def test_probes_are_logged_only_where_they_fail(client: Client, engine: FakeEngine) -> None:
    with capture_logs() as lines:
        await client.get("/health")
        await client.get("/v1/status")
        engine.dead = True
        await client.get("/health")
    assert [(line["path"], line["status"]) for line in lines] == [("/health", 503)]


def test_a_log_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    request_log.configure_logging()
    try:
        structlog.get_logger().info("event", text="two\nlines")
    finally:
        structlog.reset_defaults()
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["text"] == "two\nlines"


async def test_metrics_tell_what_happened(
    app: FastAPI, engine: FakeEngine, settings: Settings, client: Client
) -> None:
    registry = CollectorRegistry()
    counted = await Service.start(engine, settings, registry)
    app.state.regime_w = counted
    arm = {"name": "mine", "system_prompt": "", "temperature": 1.0, "top_p": 1.0}
    await client.put_adapter(7)
    await client.arms(arms=["wolfram_0", arm])
    await client.arms(policy=99)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"regime_w_{name}", labels)

    assert value("active_version") == 7
    assert value("versions") == 1
    assert value("leases") == 0
    assert value("groups_in_flight", priority="ad_hoc") == 0
    assert value("group_seconds_count") == 1
    assert value("push_seconds_count") == 1
    assert value("completion_tokens_total", arm="wolfram_0") == 8
    assert value("completion_tokens_total", arm="custom") == 8
    assert value("completion_tokens_total", arm="mine") is None
    assert value("completions_total", finish_reason="stop") == 2
    assert value("rejects_total", type="not_found") == 1
    # A request refused by a middleware and an error while a response is streamed are counted too.
    json_headers = {"Content-Type": "application/json"}
    refused = await client.post("/v1/arms/generate", content=b"NaN", headers=json_headers)
    assert refused.status_code == 400
    assert value("rejects_total", type="invalid_request") == 1
    engine.dead = True
    assert "engine" in (await client.arms(stream=True)).text
    assert value("rejects_total", type="engine") == 1
