"""The real server when things end: restarts, drains, clients that leave, an engine that is killed."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from inference_server.launch.server_process import ServerProcess
from inference_server.wire.schemas import ArmsResponse, ServerStatus
from tests.integration.server_fixture import (
    running_server,
    save_random_adapter,
    save_random_model,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Samples until it is stopped: nothing of it is a likely end.
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


def test_a_server_that_is_stopped_drains_and_comes_back_with_its_versions(
    model_dir: Path, tmp_path: Path
) -> None:
    folders = [save_random_adapter(model_dir, tmp_path / f"{seed}", seed=seed) for seed in (1, 2)]
    state = tmp_path / "state"
    with running_server(model_dir, state) as server:
        for version, folder in enumerate(folders):
            put(server, version, folder)
        httpx.post(f"{server.url}/v1/adapters/0/activate").raise_for_status()
        before, status = generate(server, **SEEDED), status_of(server)
        assert before.policy_version == 0
        # What is in flight when the signal comes is answered whole.
        answers: list[ArmsResponse] = []
        body = {**LONG, "questions": ["drained"], "max_tokens": 200}
        client = threading.Thread(target=lambda: answers.append(generate(server, **body)))
        client.start()
        wait_until(lambda: status_of(server).requests_in_flight > 0)
        server.process.terminate()
        client.join(60)
        assert [len(arm.token_ids) > 0 for arm in answers[0].groups[0].arms] == [True] * 16
        assert server.process.wait(60) == 0, server.log_tail()
    with running_server(model_dir, state) as server:
        again = status_of(server)
        assert again.boot_id != status.boot_id
        assert (again.active_version, again.next_version) == (0, 2)
        assert [v.sha256 for v in again.versions] == [v.sha256 for v in status.versions]
        after = generate(server, **SEEDED)
        assert tokens_of(after) == tokens_of(before)
        assert tokens_of(generate(server, **SEEDED, policy=1)) != tokens_of(before)


def test_clients_that_leave_and_an_engine_that_is_killed(model_dir: Path, tmp_path: Path) -> None:
    with running_server(model_dir, tmp_path / "state") as server:
        body = {**LONG, "questions": ["a", "b"], "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/arms/generate", json=body, timeout=60) as reply:
            assert reply.status_code == 200
            # Not == 32: some may have ended before the first look.
            wait_until(lambda: running_in_the_engine(server) > 0)
        wait_until(lambda: running_in_the_engine(server) == 0)
        wait_until(lambda: status_of(server).requests_in_flight == 0)
        assert status_of(server).groups_in_flight == 0

        (engine,) = [
            child
            for child in psutil.Process(server.process.pid).children(recursive=True)
            if "EngineCore" in " ".join(child.cmdline())
        ]
        engine.kill()
        wait_until(lambda: not is_healthy(server))
        assert server.process.wait(60) == 1, server.log_tail()
        assert "the engine ended by itself" in server.log_path.read_text()


def running_in_the_engine(server: ServerProcess) -> float:
    """vLLM's own count, from the scheduler."""
    metrics = httpx.get(f"{server.url}/metrics", timeout=60).text
    lines = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def is_healthy(server: ServerProcess) -> bool:
    try:
        return httpx.get(f"{server.url}/health", timeout=60).is_success
    except httpx.TransportError:
        return False
