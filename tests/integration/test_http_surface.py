"""What is reachable of vLLM's HTTP server, on a real server without a key: routes, names, sizes."""

import hashlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_server.launch.server_process import ServerProcess
from tests.integration.server_fixture import (
    save_random_adapter,
    save_random_model,
    server_with,
)
from tests.unit.chat_tokenizers import CHATML

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MANY_BYTES = 2**26


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model") / "base", chat_template=CHATML)


@pytest.fixture(scope="module")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    state = tmp_path_factory.mktemp("server") / "state"
    with server_with(base, state, max_model_len=512) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        yield client


TURN = [{"role": "user", "content": "How many?"}]
# For each route, the body of a request without model and temperature, and how to read the text of the answer.
MODEL_ROUTES: dict[str, tuple[dict[str, Any], Callable[[Any], str]]] = {
    "/v1/completions": (
        {"prompt": "How many?", "max_tokens": 16},
        lambda answer: answer["choices"][0]["text"],
    ),
    "/v1/chat/completions": (
        {"messages": TURN, "max_tokens": 16},
        lambda answer: answer["choices"][0]["message"]["content"],
    ),
    "/v1/messages": (
        {"messages": TURN, "max_tokens": 16},
        lambda answer: answer["content"][0]["text"],
    ),
    "/v1/responses": (
        {"input": "How many?", "max_output_tokens": 16},
        lambda answer: answer["output"][-1]["content"][0]["text"],
    ),
}


def test_every_route_with_a_model_serves_policy_and_versions(
    client: httpx.Client, base: Path, tmp_path: Path
) -> None:
    for version in (1, 2):
        folder = save_random_adapter(base, tmp_path / f"{version}", seed=version)
        weights = (folder / "adapter_model.safetensors").read_bytes()
        config = (folder / "adapter_config.json").read_bytes()
        response = client.put(
            f"/v1/adapters/{version}",
            files={"adapter_config.json": config, "adapter_model.safetensors": weights},
            data={"sha256": hashlib.sha256(weights).hexdigest()},
        )
        assert response.status_code == 201

    def text(path: str, model: str) -> str:
        body, read = MODEL_ROUTES[path]
        response = client.post(path, json={"model": model, "temperature": 0, **body})
        assert response.status_code == 200, response.text
        return read(response.json())

    for path in MODEL_ROUTES:
        assert text(path, "policy") == text(path, "policy-000002")
        assert len({text(path, m) for m in ("base", "policy-000001", "policy-000002")}) == 3
    assert client.post("/v1/adapters/1/activate").status_code == 200
    for path in MODEL_ROUTES:
        assert text(path, "policy") == text(path, "policy-000001")
    for path in ("/invocations", "/generative_scoring", "/v1/systemone", "/tokenize"):
        body = {"model": "policy", "prompt": "How many?"}
        assert client.post(path, json=body).status_code == 404


@pytest.mark.parametrize(
    "start",
    [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"PUT /v1/adapters/9 HTTP/1.1\r\nContent-Type: "],
    ids=["URL", "header", "content type"],
)
def test_an_endless_head_is_not_taken(
    server: ServerProcess, client: httpx.Client, start: bytes
) -> None:
    url = httpx.URL(server.url)
    with (
        socket.create_connection((url.host, url.port or 80), timeout=60) as connection,
        pytest.raises(ConnectionError),
    ):
        connection.sendall(start + b"a" * MANY_BYTES)
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/arms/generate", "/v1/adapters/1"])
def test_a_body_of_many_parts_is_not_taken(client: httpx.Client, path: str) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(MANY_BYTES // 2**20):
            yield b"x" * 2**20

    method = "PUT" if path == "/v1/adapters/1" else "POST"
    response = client.request(method, path, content=body(), headers={"Content-Type": "multipart/x"})
    # An upload that is not a form is refused before its body is read.
    assert response.status_code == (400 if method == "PUT" else 413)


def test_without_a_key_other_names_and_pages_are_refused(client: httpx.Client) -> None:
    for headers in ({"Host": "rebound.example"}, {"Origin": "https://evil.example"}):
        response = client.post("/v1/adapters/2/activate", headers=headers)
        assert response.status_code == 403
        assert "set REGIME_W_API_KEY" in response.json()["error"]["message"]
    assert client.get("/v1/status", headers={"Sec-Fetch-Site": "same-origin"}).is_success
