"""A server of two replicas (data parallelism), each of two workers (tensor parallelism), on a CPU."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from inference_server.launch.server_process import ServerProcess
from inference_server.wire.schemas import ArmsResponse, ServerStatus
from tests.integration.server_fixture import (
    load_policy,
    save_random_adapter,
    save_random_model,
    server_with,
)
from tests.integration.test_server import (
    assert_logprobs_are_those_of,
    generate,
    logprobs_of,
    put,
    tokens_of,
)
from tests.integration.test_training import metrics_of, train_settings
from trainer.config.loading import load_config
from trainer.config.sections import TrainConfig
from trainer.online.setup import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REPLICAS = (0, 1)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    state = tmp_path_factory.mktemp("parallel") / "state"
    with server_with(
        model_dir, state, max_model_len=512, data_parallel_size=2, tensor_parallel_size=2
    ) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def status_of(client: httpx.Client) -> ServerStatus:
    return ServerStatus.model_validate(client.get("/v1/status").json())


def num_requests(server: ServerProcess) -> int:
    return server.log_path.read_text().count("/v1/arms/generate")


def of_each_replica(client: httpx.Client, version: int) -> list[ArmsResponse]:
    responses = [generate(client, policy=version, replica=replica) for replica in REPLICAS]
    for replica, response in zip(REPLICAS, responses, strict=True):
        assert {group.replica for group in response.groups} == {replica}
    return responses


def test_every_replica_serves_each_version_as_peft_does(
    client: httpx.Client, model_dir: Path, tmp_path: Path
) -> None:
    assert status_of(client).num_replicas == len(REPLICAS)
    folders = {
        version: save_random_adapter(model_dir, tmp_path / str(version), seed=version)
        for version in (1, 2)
    }
    for version, folder in folders.items():
        assert put(client, version, folder).status_code == 201
    for version, folder in folders.items():
        first, second = of_each_replica(client, version)
        assert_logprobs_are_those_of(first, load_policy(model_dir, folder))
        assert tokens_of(second) == tokens_of(first)
        assert logprobs_of(second) == pytest.approx(logprobs_of(first), abs=1e-4)
    # Both replicas are used if requests name none.
    questions = [f"{i} + 1?" for i in range(6)]
    spread = Counter(group.replica for group in generate(client, questions=questions).groups)
    assert spread == dict.fromkeys(REPLICAS, 3)


def test_a_replica_that_there_is_not_is_refused_by_name(client: httpx.Client) -> None:
    refused = client.post("/v1/arms/generate", json={"questions": ["1 + 1?"], "replica": 2})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "replica"


def test_a_run_proves_its_versions_on_each_replica(
    server: ServerProcess, client: httpx.Client, model_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = train_settings(server.url, model_dir, run, **{"run.num_steps": "2"})
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    num_asked = num_requests(server)
    train(load_config(TrainConfig, words, prog="test"))
    rows = metrics_of(run)
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["sync/mismatch"] < 1e-4 for row in rows)
    # Two questions for each step. The last version has no rollouts, so a probe asks eight questions for each replica.
    assert num_requests(server) - num_asked >= 2 * 2 + 8 * len(REPLICAS)
