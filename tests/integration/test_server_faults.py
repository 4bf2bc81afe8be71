"""The real server when things end: restarts, drains, clients that leave, an engine that is killed."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from inference_server.launch.server_process import ServerProcess
from inference_server.wire.errors import ErrorResponse
from inference_server.wire.schemas import ArmsResponse, ServerStatus
from tests.integration.server_fixture import (
    engine_process,
    metric,
    paused_engine,
    save_random_adapter,
    save_random_model,
    server_with,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# It samples until it is stopped, since its completions are unlikely to end by themselves.
LONG_ARM = {"name": "long", "system_prompt": "", "temperature": 1.0, "top_p": 1.0}
LONG = {"arms": [LONG_ARM], "samples_per_arm": 16, "max_tokens": 900}
SEEDED = {"questions": ["What is 3 + 4?", "What is 9 - 2?"], "max_tokens": 24, "seed": 1}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "tiny")


def put(server: ServerProcess, version: int, folder: Path) -> None:
    weights = (folder / "adapter_model.safetensors").read_bytes()
    response = httpx.put(
        f"{server.url}/v1/adapters/{version}",
        files={
            "adapter_config.json": (folder / "adapter_config.json").read_bytes(),
            "adapter_model.safetensors": weights,
        },
        data={"sha256": hashlib.sha256(weights).hexdigest()},
        timeout=60,
    )
    assert response.status_code == 201, response.text


def generate(server: ServerProcess, **body: Any) -> ArmsResponse:
    response = httpx.post(f"{server.url}/v1/arms/generate", json=body, timeout=120)
    assert response.status_code == 200, response.text
    return ArmsResponse.model_validate(response.json())


def status_of(server: ServerProcess) -> ServerStatus:
    return ServerStatus.model_validate(httpx.get(f"{server.url}/v1/status", timeout=60).json())


def tokens_of(response: ArmsResponse) -> list[list[int]]:
    return [arm.token_ids for group in response.groups for arm in group.arms]


@dataclass(frozen=True, kw_only=True)
class Restarted:
    """A server that was stopped while it answered, and started again on the same state."""

    before: ArmsResponse
    """The answer to `SEEDED` before the stop."""
    status: ServerStatus
    """The status before the stop."""
    drained: ArmsResponse
    """The answer to the request that was in flight when the signal came."""
    exit_code: int
    server: ServerProcess


@pytest.fixture(scope="module")
def restarted(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restarted]:
    folder = tmp_path_factory.mktemp("restarted")
    state = folder / "state"
    with server_with(model_dir, state) as server:
        for version in (0, 1):
            put(
                server,
                version,
                save_random_adapter(model_dir, folder / f"{version}", seed=version + 1),
            )
        httpx.post(f"{server.url}/v1/adapters/0/activate").raise_for_status()
        before, status = generate(server, **SEEDED), status_of(server)
        answers: list[ArmsResponse] = []
        body = {**LONG, "questions": ["drained"], "max_tokens": 200}
        client = threading.Thread(target=lambda: answers.append(generate(server, **body)))
        with paused_engine(server):
            client.start()
            wait_until(lambda: metric_of(server, "regime_w_groups_in_flight") > 0)
            server.process.terminate()
        client.join(300)
        exit_code = server.process.wait(300)
    with server_with(model_dir, state) as server:
        yield Restarted(
            before=before, status=status, drained=answers[0], exit_code=exit_code, server=server
        )


def test_what_is_in_flight_when_a_server_is_stopped_is_answered_whole(restarted: Restarted) -> None:
    assert [len(arm.token_ids) > 0 for arm in restarted.drained.groups[0].arms] == [True] * 16
    assert restarted.exit_code == 0


def test_a_server_comes_back_with_its_versions(restarted: Restarted) -> None:
    server, before = restarted.server, restarted.before
    was, now = restarted.status, status_of(server)
    assert now.boot_id != was.boot_id
    assert before.policy_version == 0
    assert (now.active_version, now.next_version) == (0, 2)
    assert [v.sha256 for v in now.versions] == [v.sha256 for v in was.versions]
    assert tokens_of(generate(server, **SEEDED)) == tokens_of(before)
    assert tokens_of(generate(server, **SEEDED, policy=1)) != tokens_of(before)


def test_a_client_that_leaves_stops_its_requests(restarted: Restarted) -> None:
    server, body = restarted.server, {**LONG, "questions": ["a", "b"], "stream": True}
    before = metric_of(server, "vllm:generation_tokens_total")
    # The engine is paused, so that a request that ends has not simply finished.
    with paused_engine(server):
        with httpx.stream("POST", f"{server.url}/v1/arms/generate", json=body, timeout=60) as reply:
            assert reply.status_code == 200
            wait_until(lambda: metric_of(server, "regime_w_groups_in_flight") > 0)
        wait_until(lambda: metric_of(server, "regime_w_groups_in_flight") == 0)
    wait_until(lambda: status_of(server).requests_in_flight == 0)
    wait_until(lambda: metric_of(server, "vllm:num_requests_running") == 0)
    # 32 completions of up to 900 tokens would be thousands.
    assert metric_of(server, "vllm:generation_tokens_total") - before < 32 * 50


def test_an_engine_ends_with_its_server(model_dir: Path, tmp_path: Path) -> None:
    with server_with(model_dir, tmp_path / "state") as server:
        engine = engine_process(server)
        server.process.kill()
        wait_until(lambda: has_ended(engine))


def test_what_does_not_finish_in_time_is_answered_with_an_error(
    model_dir: Path, tmp_path: Path
) -> None:
    long = {"model": "base", "prompt": "?", "max_tokens": 900, "n": 64, "ignore_eos": True}
    # With more questions than can be answered meanwhile.
    arms = {**LONG, "questions": [f"{number}" for number in range(32)]}
    bodies = [
        ("arms/generate", arms),
        ("arms/generate", {**arms, "stream": True}),
        ("completions", long),
    ]
    answers: dict[int, httpx.Response] = {}
    with server_with(model_dir, tmp_path / "state", drain_timeout_s=0) as server:

        def ask(number: int) -> None:
            path, body = bodies[number]
            answers[number] = httpx.post(f"{server.url}/v1/{path}", json=body, timeout=300)

        clients = [threading.Thread(target=ask, args=(number,)) for number in range(len(bodies))]
        for client in clients:
            client.start()
        wait_until(lambda: metric_of(server, "vllm:num_requests_running") > 0)
        wait_until(lambda: status_of(server).requests_in_flight > 64)
        server.process.terminate()
        for client in clients:
            client.join(300)
        assert server.process.wait(300) == 0, server.log_tail()
    for number in (0, 2):
        assert (answers[number].status_code, answers[number].headers["Retry-After"]) == (503, "1")
        assert "stopp" in answers[number].json()["error"]["message"]
    last = ErrorResponse.model_validate_json(answers[1].text.splitlines()[-1])
    assert (answers[1].status_code, last.error.type) == (200, "engine")


def test_a_server_ends_with_its_engine(restarted: Restarted) -> None:
    """The last test: the server is gone afterwards."""
    server = restarted.server
    engine_process(server).kill()
    wait_until(lambda: not is_healthy(server))
    assert server.process.wait(300) == 1, server.log_tail()
    assert "the engine ended by itself" in server.log_path.read_text()


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended; it may be a zombie whose new parent has not read its exit code yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def metric_of(server: ServerProcess, name: str) -> float:
    """The metric's value now; the server answers this without the engine."""
    return metric(httpx.get(f"{server.url}/metrics", timeout=60).text, name)


def is_healthy(server: ServerProcess) -> bool:
    try:
        return httpx.get(f"{server.url}/health", timeout=60).is_success
    except httpx.TransportError:
        return False
