"""Two hundred hostile requests to a real server: all are refused, and they leave nothing behind."""

import random
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from inference_server.launch.server_process import ServerProcess
from inference_server.wire.schemas import ServerStatus
from tests.integration.hostile_requests import LARGE, Stalled, kinds
from tests.integration.server_fixture import (
    engine_process,
    save_random_adapter,
    save_random_model,
    server_with,
)
from tests.integration.test_server_faults import put, status_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_REQUESTS = 200
NUM_CLIENTS = 4
SEED = 17
MAX_GROWTH_BYTES = 200 * 10**6


def test_hostile_requests_leave_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_random_model(tmp_path / "model")
    folders = [save_random_adapter(model, tmp_path / f"{seed}", seed=seed) for seed in range(3)]
    rng = random.Random(SEED)
    with (
        closing(Stalled()) as stalled,
        server_with(
            model,
            tmp_path / "state",
            max_loaded_versions=2,
            max_body_bytes=2**22,
            kv_cache_memory_bytes=2**26,
        ) as server,
    ):
        by_name = kinds(folders[0], stalled)
        names = [*by_name, *rng.choices(list(by_name), k=NUM_REQUESTS - len(by_name))]
        rng.shuffle(names)
        put(server, 0, folders[0])
        warm_up(server)
        before, before_bytes = base_answers(server), memory_bytes(server)
        with asking_health(server) as health_s:
            faults = attack(server, [(name, by_name[name], rng.random()) for name in names])
            wait_until(lambda: is_idle(status_of(server)))
        grown_bytes = memory_bytes(server) - before_bytes
        with capsys.disabled():
            print(  # noqa: T201 - a measurement, for whoever runs it
                f"\n{len(names)} hostile requests: the slowest of {len(health_s)} /health took "
                f"{max(health_s):.2f} s, memory grew by {grown_bytes / 1e6:.0f} MB"
            )
        assert faults == []
        status = status_of(server)
        assert [(v.version, v.num_leases) for v in status.versions] == [(0, 0)]
        assert status.active_version == 0
        for version in (1, 2):  # more than fit beside a version that is pinned
            put(server, version, folders[version])
        assert base_answers(server) == before
        assert grown_bytes < MAX_GROWTH_BYTES
        stop_the_engine_under_a_request(server)


def attack(server: ServerProcess, requests: list[tuple[str, Any, float]]) -> list[str]:
    """Sends every request; returns the names of those that were not answered as they should be, and what happened."""
    with (
        httpx.Client(base_url=server.url, timeout=300, trust_env=False) as client,
        ThreadPoolExecutor(NUM_CLIENTS) as clients,
    ):

        def send(request: tuple[str, Any, float]) -> str | None:
            name, kind, seed = request
            try:
                fault = kind(client, random.Random(seed))
            except Exception as error:
                fault = repr(error)
            return None if fault is None else f"{name}: {fault}"

        return sorted({fault for fault in clients.map(send, requests) if fault is not None})


def is_idle(status: ServerStatus) -> bool:
    return not status.groups_in_flight and not status.requests_in_flight


def completion(server: ServerProcess, **body: Any) -> dict[str, Any]:
    # A cache salt of its own: a prefix cached by another request would be rounded differently.
    asked = {"temperature": 0, "max_tokens": 32, "logprobs": 1, "cache_salt": uuid.uuid4().hex}
    response = httpx.post(
        f"{server.url}/v1/completions", json={"model": "base", **asked, **body}, timeout=120
    )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()["choices"][0]
    return answer


def base_answers(server: ServerProcess) -> list[dict[str, Any]]:
    return [completion(server, prompt=f"What is {n} + {n}?") for n in range(8)]


def warm_up(server: ServerProcess) -> None:
    """Makes the server load what it loads only on demand, and fill the caches that it reuses."""
    completion(server, prompt="1", structured_outputs={"regex": "a+"}, model="policy")
    completion(server, prompt="1", bad_words=["a"])
    for stream in (False, True):
        body = {**LARGE, "score": True, "stream": stream}
        httpx.post(f"{server.url}/v1/arms/generate", json=body, timeout=300).raise_for_status()


def memory_bytes(server: ServerProcess) -> int:
    process = psutil.Process(server.process.pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


@contextmanager
def asking_health(server: ServerProcess) -> Iterator[list[float]]:
    """Repeats ``GET /health`` within the block, and collects the seconds that each took."""
    took_s: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=300, trust_env=False) as client:
            while not done.wait(0.2):
                started = time.monotonic()
                assert client.get(f"{server.url}/health").status_code == 200
                took_s.append(time.monotonic() - started)

    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(ask)
        try:
            yield took_s
        finally:
            done.set()
            asking.result()


def stop_the_engine_under_a_request(server: ServerProcess) -> None:
    """Checks that a completion that the engine does not finish is answered 503, not with half an answer."""
    # More than a minute's work, so that it is not finished before the first look.
    body = {"model": "base", "prompt": ["?"] * 64, "max_tokens": 900, "n": 16, "ignore_eos": True}
    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(httpx.post, f"{server.url}/v1/completions", json=body, timeout=120)
        wait_until(lambda: status_of(server).requests_in_flight > 0)
        engine_process(server).terminate()
        response = asking.result()
    assert response.status_code == 503, response.text
