"""The client against a server that is a function: retries, errors, and what is on the wire."""

import asyncio
import email
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from email.message import Message
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from inference_server.wire.adapters.references import AdapterPath
from inference_server.wire.errors import ErrorBody, ErrorResponse
from inference_server.wire.schemas import (
    ArmCompletion,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Usage,
)
from inference_server.wire.streams import NDJSON, StreamEnd
from regime_w import ArmSpec, build_all_arms
from trainer.client.arms_client import ArmsClient
from trainer.client.protocol import GreedyPrompt, TextCompletion
from trainer.config.sections import ServerConfig
from trainer.errors import ServerError, ServerRejectedError, ServerUnreachableError

URL = "http://server.test:8000"
NUM_ATTEMPTS = 3
GREEDY = GreedyPrompt(
    system_prompt="Be brief.", prompt_format="chat", max_tokens=4, stop=("\n\nQuestion:",)
)

ADAPTER = {
    "version": 12,
    "name": "policy-000012",
    "sha256": "ab",
    "rank": 4,
    "size_bytes": 1,
    "active": True,
    "num_leases": 0,
    "created_at": 0.0,
}
STATUS = {
    "boot_id": "b",
    "base_model": "m",
    "base_dtype": "float32",
    "has_chat_template": False,
    "active_version": 12,
    "versions": [ADAPTER],
    "next_version": 13,
    "groups_in_flight": 0,
    "requests_in_flight": 0,
    "limits": {
        "max_model_len_tokens": 1,
        "max_lora_rank": 1,
        "max_groups_in_flight": 1,
        "max_questions": 1,
        "max_samples_per_arm": 1,
        "max_completions": 1,
        "max_adapter_bytes": 1,
        "max_body_bytes": 1,
        "max_request_s": 1.0,
        "max_loaded_versions": 1,
    },
}


def group_of(question_id: str, text: str = "?", version: int = 12) -> ArmGroup:
    """A whole group: one completion of each arm."""
    return ArmGroup(
        id=question_id,
        question=text,
        policy_version=version,
        arms=[
            ArmCompletion(
                arm=arm.name,
                sample=0,
                text="7",
                finish_reason=FinishReason.STOP,
                temperature=arm.temperature,
                top_p=arm.top_p,
                seed=None,
                prompt_token_ids=[1],
                token_ids=[7, 2],
                logprobs=[-0.5, 0.0],
            )
            for arm in build_all_arms()
        ],
    )


def answer_of(*groups: ArmGroup) -> dict[str, Any]:
    return {
        "policy_version": 12,
        "boot_id": "b",
        "groups": [group.model_dump(mode="json") for group in groups],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0},
    }


WHOLE = group_of("q0")

Answer = httpx.Response | Exception | type[Exception]


class Server:
    """Gives the answers one after the other, the last one for good, and keeps the requests."""

    def __init__(self, *answers: Answer):
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, httpx.Response):
            return answer
        raise answer


Connect = Callable[..., ArmsClient]


@pytest.fixture
def connect() -> Connect:
    """Makes clients whose connection ends in a `Server`; everything else about them is real."""

    def connect(server: Any, url: str = URL, **settings: Any) -> ArmsClient:
        return ArmsClient(ServerConfig(url=url, **settings), httpx.MockTransport(server))

    return connect


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Retries without pauses, and a fixed number of them."""
    with stamina.set_testing(True, attempts=NUM_ATTEMPTS):
        yield


@pytest.mark.parametrize(
    "failure",
    [
        httpx.Response(500, text="Internal Server Error"),
        httpx.Response(503),
        httpx.Response(502, text="<html>bad gateway</html>"),
        httpx.Response(504),
        httpx.Response(429, json={"error": {"type": "busy", "message": "later"}}),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed in the middle"),
        httpx.Response(200, text="\0\1garbage"),
        httpx.Response(200, json=STATUS | {"boot_id": None}),
    ],
    ids=lambda failure: getattr(failure, "status_code", type(failure).__name__),
)
async def test_what_passes_is_tried_again(failure: Answer, connect: Connect) -> None:
    server = Server(failure, failure, httpx.Response(200, json=STATUS))
    async with connect(server) as client:
        status = await client.status()
    assert status.active_version == 12
    assert [(r.method, str(r.url)) for r in server.requests] == [("GET", f"{URL}/v1/status")] * 3


async def test_a_repeated_request_has_the_same_body(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    server = Server(httpx.Response(503), httpx.Response(201, json=ADAPTER))
    async with connect(server) as client:
        await client.push_adapter(12, tmp_path)
    first, second = (parts(request) for request in server.requests)
    assert first == second


@pytest.mark.parametrize(
    ("failure", "reason", "is_up"),
    [
        (httpx.Response(503), "503", True),
        (httpx.Response(507, text="disk full"), "507: disk full", True),
        (httpx.ConnectError("refused"), "refused", False),
    ],
)
async def test_a_server_that_stays_away_is_an_error_that_names_it(
    failure: Answer, reason: str, *, is_up: bool, connect: Connect
) -> None:
    server = Server(failure)
    async with connect(server) as client:
        with pytest.raises(ServerUnreachableError) as caught:
            await client.status()
    message = str(caught.value)
    assert f"{URL}/v1/status" in message
    assert reason in message
    assert ("is server.url right" in message) != is_up
    assert len(server.requests) == NUM_ATTEMPTS


async def test_no_time_for_retries_means_one_attempt(connect: Connect) -> None:
    server = Server(httpx.Response(503))
    with stamina.set_testing(False):
        async with connect(server, give_up_after_s=0) as client:
            with pytest.raises(ServerUnreachableError):
                await client.status()
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422])
async def test_a_refusal_is_not_tried_again_and_keeps_the_servers_words(
    status: int, connect: Connect
) -> None:
    body = {"error": {"type": "t", "message": "rank 64 is over 16", "param": "r"}}
    server = Server(httpx.Response(status, json=body))
    async with connect(server) as client:
        with pytest.raises(ServerRejectedError) as caught:
            await client.status()
    assert "rank 64 is over 16" in str(caught.value)
    assert str(status) in str(caught.value)
    assert ("REGIME_W_API_KEY" in str(caught.value)) == (status == 401)
    assert (caught.value.status, caught.value.param) == (status, "r")
    assert len(server.requests) == 1


@pytest.mark.parametrize("text", ["<html>nginx</html>", "", '{"detail": "Not Found"}', "[]"])
async def test_a_refusal_in_another_form_still_says_what_was_answered(
    text: str, connect: Connect
) -> None:
    async with connect(Server(httpx.Response(404, text=text))) as client:
        with pytest.raises(ServerRejectedError) as caught:
            await client.delete_adapter(3)
    assert text in str(caught.value)
    assert (caught.value.status, caught.value.param) == (404, None)


@pytest.mark.parametrize("text", ["<html>hello</html>", "", "{}", "[]", '{"boot_id": 3}'])
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.status(),
        lambda client: client.generate(ArmsRequest(questions=["q"])),
        lambda client: client.complete(None, ["1+1="], GREEDY),
    ],
    ids=["status", "generate", "complete"],
)
async def test_an_answer_that_is_something_else_is_an_error_that_names_the_server(
    call: Callable[[ArmsClient], Awaitable[object]], text: str, connect: Connect
) -> None:
    async with connect(Server(httpx.Response(200, text=text))) as client:
        with pytest.raises(ServerError, match=re.escape(URL)):
            await call(client)


async def test_generate_sends_the_request_as_it_is(connect: Connect) -> None:
    text = "What is 3 + 4?"
    server = Server(httpx.Response(200, json=answer_of(group_of("q0", text))))
    request = ArmsRequest(questions=[text], seed=5, policy=12, max_tokens=7)
    async with connect(server) as client:
        response = await client.generate(request)
    assert response.policy_version == 12
    (sent,) = server.requests
    assert (sent.method, str(sent.url)) == ("POST", f"{URL}/v1/arms/generate?heartbeat_s=10.0")
    assert sent.headers["content-type"] == "application/json"
    streamed = request.model_copy(update={"stream": True})
    assert ArmsRequest.model_validate_json(sent.content) == streamed


def stream_of(*lines: BaseModel | str, status: int = 200) -> httpx.Response:
    texts = [line if isinstance(line, str) else line.model_dump_json() for line in lines]
    content = "".join(f"{text}\n" for text in texts)
    return httpx.Response(status, text=content, headers={"Content-Type": NDJSON})


END = StreamEnd(policy_version=12, boot_id="b", usage=Usage(prompt_tokens=8, completion_tokens=16))


async def test_a_stream_is_read_in_the_order_of_the_questions(connect: Connect) -> None:
    groups = [group_of(name, name) for name in ("q0", "q1", "q2")]
    server = Server(stream_of("", groups[2], "", "", groups[0], groups[1], "", END))
    async with connect(server) as client:
        response = await client.generate(ArmsRequest(questions=["q0", "q1", "q2"]))
    assert (response.groups, response.boot_id, response.usage) == (groups, "b", END.usage)


@pytest.mark.parametrize(
    "failure",
    [
        stream_of(),
        stream_of(""),
        stream_of(group_of("q0")),
        stream_of(group_of("q0"), '{"policy_version": 12, "boo'),
        stream_of('{"id": "q0"}', END),
        stream_of(END),
        *(
            stream_of(group_of("q0"), ErrorResponse(error=ErrorBody(type=kind, message="m")))
            for kind in ("timeout", "engine", "busy", "of a newer server")
        ),
    ],
)
async def test_a_stream_that_is_not_whole_is_asked_for_again(
    failure: httpx.Response, connect: Connect
) -> None:
    server = Server(failure, stream_of(WHOLE, END))
    async with connect(server) as client:
        assert (await client.generate(ArmsRequest(questions=["?"]))).groups == [WHOLE]
    assert len(server.requests) == 2


async def test_a_refusal_within_a_stream_is_one_with_its_status(connect: Connect) -> None:
    error = ErrorBody(type="not_found", message="no version 12", param="policy")
    async with connect(Server(stream_of(ErrorResponse(error=error)))) as client:
        with pytest.raises(ServerRejectedError, match="no version 12") as caught:
            await client.generate(ArmsRequest(questions=["?"]))
    assert (caught.value.status, caught.value.param) == (404, "policy")


class _Slow(httpx.AsyncByteStream):
    """Lines of a stream, each only once the client's deadline has nearly passed."""

    def __init__(self, clock: "Clock", lines: Sequence[bytes], *, pause_s: float):
        self._clock, self._lines, self._pause_s = clock, lines, pause_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for line in self._lines:
            self._clock.now_s += self._pause_s
            for _ in range(3):  # rounds of the loop: to see that it is late, to time out, to cancel
                await asyncio.sleep(0)
            yield line


class Clock:
    """The event loop's time, which passes only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        loop = asyncio.get_running_loop()
        self.now_s = loop.time()
        monkeypatch.setattr(loop, "time", lambda: self.now_s)


@pytest.mark.parametrize(("pause_s", "is_given_up"), [(299.0, False), (301.0, True)])
async def test_a_slow_stream_is_waited_for_while_lines_come(
    pause_s: float, is_given_up: bool, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    lines = [*[b"\n"] * 20, *stream_of(WHOLE, END).content.splitlines(keepends=True)]

    def answer(request: httpx.Request) -> httpx.Response:
        slow = _Slow(clock, lines, pause_s=pause_s)
        return httpx.Response(200, stream=slow, headers={"Content-Type": NDJSON})

    async with connect(answer) as client:
        asked = client.generate(ArmsRequest(questions=["?"]))
        if is_given_up:
            with pytest.raises(ServerUnreachableError, match="request_timeout_s"):
                await asked
        else:
            assert (await asked).groups == [WHOLE]


def changed(**fields: Any) -> ArmGroup:
    group = group_of("q0")
    return group.model_copy(
        update={"arms": [group.arms[0].model_copy(update=fields), *group.arms[1:]]}
    )


FLAWED = {
    "no group": [],
    "a group twice": [WHOLE, WHOLE],
    "of another question": [group_of("q1")],
    "of another text": [group_of("q0", "!")],
    "an arm is missing": [WHOLE.model_copy(update={"arms": WHOLE.arms[:-1]})],
    "an arm twice": [WHOLE.model_copy(update={"arms": [*WHOLE.arms[:-1], WHOLE.arms[0]]})],
    "another sample": [changed(sample=1)],
    "fewer logprobs than tokens": [changed(logprobs=[-0.5])],
    "no tokens": [changed(token_ids=[], logprobs=[])],
    "no prompt": [changed(prompt_token_ids=[])],
    "a probability over 1": [changed(logprobs=[-0.5, 0.1])],
    "more tokens than asked for": [changed(token_ids=[7] * 257, logprobs=[-0.5] * 257)],
    "a negative token": [changed(token_ids=[-1, 2])],
    "a negative token of the prompt": [changed(prompt_token_ids=[-1])],
    "a negative temperature": [changed(temperature=-1.0)],
    "an empty nucleus": [changed(top_p=0.0)],
    "more than the whole nucleus": [changed(top_p=1.5)],
}


@pytest.mark.parametrize("groups", FLAWED.values(), ids=FLAWED.keys())
async def test_an_answer_that_is_not_whole_is_asked_for_again(
    groups: list[ArmGroup], connect: Connect
) -> None:
    server = Server(
        httpx.Response(200, json=answer_of(*groups)), httpx.Response(200, json=answer_of(WHOLE))
    )
    async with connect(server) as client:
        response = await client.generate(ArmsRequest(questions=["?"]))
    assert response.groups == [WHOLE]
    assert len(server.requests) == 2


async def test_what_an_aborted_completion_has_not_is_no_flaw(connect: Connect) -> None:
    aborted = changed(finish_reason=FinishReason.ABORT, token_ids=[], logprobs=[])
    server = Server(httpx.Response(200, json=answer_of(aborted)))
    async with connect(server) as client:
        assert (await client.generate(ArmsRequest(questions=["?"]))).groups == [aborted]


@given(cut=st.integers(0, len(json.dumps(answer_of(WHOLE))) - 1))
def test_no_part_of_an_answer_is_an_answer(cut: int) -> None:
    part = json.dumps(answer_of(WHOLE))[:cut]
    with pytest.raises(ValidationError):
        ArmsResponse.model_validate_json(part)


async def test_an_answer_that_takes_too_long_is_given_up(connect: Connect) -> None:
    async def drip(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        raise AssertionError

    async with connect(drip, request_timeout_s=0.01) as client:
        with pytest.raises(ServerUnreachableError, match="request_timeout_s"):
            await client.status()


async def test_an_outage_is_told_once_with_its_cause_and_its_end(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(
        httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(200, json=STATUS)
    )
    async with connect(server) as client:
        await client.status()
        await client.status()
    fails, answers = [record.getMessage() for record in caplog.records]
    assert fails.startswith('event=server_fails path=/v1/status reason="refused" for_s=0.0 ')
    assert re.fullmatch(r"event=server_answers after_s=\d+\.\d failures=2", answers)


async def test_one_of_several_is_waited_for_while_it_is_full_and_not_while_it_fails() -> None:
    full = [httpx.Response(429)] * 3
    config = ServerConfig(url=URL, give_up_after_s=0)
    for failure, num_requests in ((httpx.Response(429), 6), (httpx.Response(503), 4)):
        server = Server(*full, failure, failure, httpx.Response(200, json=STATUS))
        transport = httpx.MockTransport(server)
        client = ArmsClient(config, transport, full_for_s=60.0)
        with stamina.set_testing(True, attempts=9):
            if failure.status_code == 429:
                await client.status()
            else:
                with pytest.raises(ServerUnreachableError, match="503"):
                    await client.status()
        assert len(server.requests) == num_requests


async def test_a_request_that_closing_cuts_off_is_no_outage_and_not_sent_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Transport(httpx.AsyncBaseTransport):
        """As the network does it: closing the connections fails the request that waits for an answer."""

        def __init__(self) -> None:
            self.num_requests = 0
            self.is_asked, self.is_closed = asyncio.Event(), asyncio.Event()

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self.num_requests += 1
            self.is_asked.set()
            await self.is_closed.wait()
            raise httpx.ReadError("")

        async def aclose(self) -> None:
            self.is_closed.set()

    transport = Transport()
    async with ArmsClient(ServerConfig(url=URL), transport) as client:
        asked = asyncio.create_task(client.status())
        await transport.is_asked.wait()
    with pytest.raises(ServerUnreachableError):
        await asked
    assert transport.num_requests == 1
    assert not caplog.records


async def test_a_full_server_is_no_outage(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(httpx.Response(429), httpx.Response(200, json=STATUS))
    async with connect(server) as client:
        await client.status()
    assert not caplog.records


def greedy_group(
    question_id: str,
    text: str,
    version: int | None,
    *,
    num_tokens: int = 2,
    reason: FinishReason = FinishReason.STOP,
) -> ArmGroup:
    """The answer to one question of `GREEDY`: the question and an exclamation mark."""
    arm = ArmCompletion(
        arm="greedy",
        sample=0,
        text=text + "!",
        finish_reason=reason,
        temperature=0.0,
        top_p=1.0,
        seed=None,
        prompt_token_ids=[1],
        token_ids=[5] * num_tokens,
        logprobs=[-0.5] * num_tokens,
    )
    return ArmGroup(id=question_id, question=text, policy_version=version, arms=[arm])


@pytest.mark.parametrize("version", [None, 12])
async def test_greedy_answers_come_in_the_order_of_their_questions(
    version: int | None, connect: Connect
) -> None:
    groups = [
        greedy_group("q0", "x", version),
        greedy_group("q1", "y", version, num_tokens=4, reason=FinishReason.LENGTH),
    ]
    server = Server(httpx.Response(200, json=answer_of(*groups)))
    async with connect(server) as client:
        assert await client.complete(version, ["x", "y"], GREEDY) == [
            TextCompletion(text="x!", num_tokens=2, truncated=False),
            TextCompletion(text="y!", num_tokens=4, truncated=True),
        ]
    sent = ArmsRequest.model_validate_json(server.requests[0].content)
    assert (sent.greedy, sent.policy) == (True, "base" if version is None else version)
    assert (sent.prompt_format, sent.stop, sent.max_tokens) == ("chat", GREEDY.stop, 4)
    assert [arm.system_prompt for arm in sent.arms or () if isinstance(arm, ArmSpec)] == [
        "Be brief."
    ]


async def test_many_greedy_questions_are_several_requests(connect: Connect) -> None:
    class Answers(Server):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            asked = ArmsRequest.model_validate_json(request.content).identified_questions
            groups = [greedy_group(q.id, q.question, 12) for q in asked]
            return httpx.Response(200, json=answer_of(*groups))

    server = Answers()
    questions = [f"{i}?" for i in range(130)]
    async with connect(server) as client:
        answers = await client.complete(12, questions, GREEDY)
    assert [answer.text for answer in answers] == [f"{question}!" for question in questions]
    assert len(server.requests) == 3


def parts(request: httpx.Request) -> dict[str, tuple[str | None, bytes]]:
    """The parts of a multipart body: name to (file name, content)."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + request.content)
    found: dict[str, tuple[str | None, bytes]] = {}
    for part in message.get_payload():
        assert isinstance(part, Message)
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found[str(name)] = (part.get_filename(), content)
    return found


@pytest.mark.parametrize("activate", [True, False])
async def test_a_push_carries_both_files_and_the_digest_of_the_weights(
    activate: bool, connect: Connect, tmp_path: Path
) -> None:
    config, weights = b'{"r": 4}', bytes(range(256)) * 4
    (tmp_path / "adapter_config.json").write_bytes(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    server = Server(httpx.Response(201, json=ADAPTER))
    async with connect(server) as client:
        info = await client.push_adapter(12, tmp_path, activate=activate)
    assert info.version == 12
    (sent,) = server.requests
    assert (sent.method, sent.url.path) == ("PUT", "/v1/adapters/12")
    assert dict(sent.url.params) == {"activate": "true" if activate else "false"}
    assert parts(sent) == {
        "adapter_config.json": ("adapter_config.json", config),
        "adapter_model.safetensors": ("adapter_model.safetensors", weights),
        "sha256": (None, hashlib.sha256(weights).hexdigest().encode()),
    }


async def test_a_version_is_deleted_by_its_number(connect: Connect) -> None:
    server = Server(httpx.Response(204))
    async with connect(server) as client:
        await client.delete_adapter(3)
    assert [(r.method, r.url.path) for r in server.requests] == [("DELETE", "/v1/adapters/3")]


@pytest.mark.parametrize(("key", "header"), [("secret", "Bearer secret"), (None, None)])
async def test_the_key_is_sent_as_a_bearer_token(
    key: str | None, header: str | None, connect: Connect
) -> None:
    server = Server(httpx.Response(200, json=STATUS))
    async with connect(server, api_key=key) as client:
        await client.status()
    assert server.requests[0].headers.get("authorization") == header


async def test_a_push_by_path_names_the_folder(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    server = Server(httpx.Response(201, json=ADAPTER))
    async with connect(server, push_by_path=True) as client:
        await client.push_adapter(12, tmp_path)
    assert AdapterPath.model_validate_json(server.requests[0].content) == AdapterPath(
        path=str(tmp_path), sha256=hashlib.sha256(b"weights").hexdigest()
    )


async def test_versions_are_looked_up_and_activated(connect: Connect) -> None:
    server = Server(httpx.Response(200, json=ADAPTER), httpx.Response(200, json=ADAPTER))
    async with connect(server) as client:
        assert (await client.adapter(12)).version == 12
        assert (await client.activate_adapter(12)).active
    assert [(r.method, r.url.path) for r in server.requests] == [
        ("GET", "/v1/adapters/12"),
        ("POST", "/v1/adapters/12/activate"),
    ]


@pytest.mark.parametrize(
    ("url", "encoding"), [("http://127.0.0.1:1", "identity"), ("http://gpu-box:1", None)]
)
async def test_loopback_is_not_compressed(url: str, encoding: str | None, connect: Connect) -> None:
    server = Server(httpx.Response(200, json=STATUS))
    async with connect(server, url) as client:
        await client.status()
    accepted = server.requests[0].headers["Accept-Encoding"]
    assert (accepted == "identity") is (encoding == "identity")
    assert ("zstd" in accepted) is (encoding is None)
