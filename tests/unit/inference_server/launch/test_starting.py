"""What a client is told while the engine starts."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from inference_server.launch import starting as starting_module
from inference_server.launch.starting import Starting, playground_url
from inference_server.vllm import phases
from tests.waiting import wait_until


@contextmanager
def starting(phase_file: Path) -> Iterator[tuple[str, Starting]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with Starting(listener, phase_file) as thread:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", thread


def test_every_route_says_what_the_engine_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "phase"
    monkeypatch.setenv(phases.PHASE_FILE_VARIABLE, str(file))
    log = logging.getLogger("vllm")
    before = list(log.handlers)
    monkeypatch.setattr(log, "level", logging.INFO)
    with starting(file) as (url, _), httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/health").status_code == 503
        found = client.get("/v1/status").json()["error"]
        assert found["type"] == "starting"
        assert found["message"].endswith(phases.FIRST_PHASE)
        phases.follow()
        phases.follow()
        try:
            log.info("Starting to load model %s...", "m")
            assert (
                client.get("/v1/status").json()["error"]["message"].endswith("loading the weights")
            )
            log.info("GPU KV cache size: 5 tokens")
            sent = client.put("/v1/adapters/1", content=b"0" * 2**20)
        finally:
            assert len(log.handlers) == len(before) + 1
            log.handlers[:] = before
    assert (sent.status_code, sent.headers["Retry-After"]) == (503, "5")
    assert sent.json()["error"]["message"].endswith(phases.PHASES["KV cache size"])


def test_after_the_stop_connections_wait_for_the_server(tmp_path: Path) -> None:
    with starting(tmp_path / "phase") as (url, thread):
        thread.stop()
        with pytest.raises(httpx.ReadTimeout), httpx.Client(trust_env=False) as client:
            client.get(url, timeout=0.5)


def test_a_client_that_says_nothing_delays_the_others_a_second(tmp_path: Path) -> None:
    with starting(tmp_path / "phase") as (url, _):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))):
            assert httpx.get(url, timeout=30, trust_env=False).status_code == 503
        assert httpx.get(url, timeout=30, trust_env=False).status_code == 503


@pytest.mark.parametrize("start", [b"", b"PUT / HTTP/1.1\r\n\r\n"], ids=["head", "body"])
def test_a_client_that_never_ends_does_not_delay_the_stop(tmp_path: Path, start: bytes) -> None:
    """The server waits for the stop before it listens."""
    ended = threading.Event()

    def dribble(client: socket.socket) -> None:
        with suppress(OSError):
            client.sendall(start)
            while not ended.wait(0.1):
                client.sendall(b"x")

    with starting(tmp_path / "phase") as (url, thread):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            sender = threading.Thread(target=dribble, args=(client,))
            sender.start()
            time.sleep(0.5)
            stop = threading.Thread(target=thread.stop, daemon=True)
            stop.start()
            stop.join(300)
            ended.set()
            sender.join()
        assert not stop.is_alive()


def test_without_a_socket_it_only_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting_module, "_LOG_EVERY_S", 0.0)
    with capture_logs() as lines, Starting(None, tmp_path / "phase") as thread:
        wait_until(lambda: bool(lines))
        thread.stop()
    assert lines[0]["event"] == "starting"
    assert lines[0]["phase"].endswith(phases.FIRST_PHASE)


@pytest.mark.parametrize(
    ("host", "has_tls", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:8000/"),
        ("0.0.0.0", False, "http://127.0.0.1:8000/"),
        (None, False, "http://127.0.0.1:8000/"),
        ("::1", False, "http://[::1]:8000/"),
        ("gpu.example", True, "https://gpu.example:8000/"),
    ],
)
def test_the_playground_has_an_address_for_a_browser(
    host: str | None, has_tls: bool, url: str
) -> None:
    assert playground_url(host, 8000, has_tls) == url
