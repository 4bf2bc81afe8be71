"""One server for the tests that do not kill it, and how long the others go on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_server.launch.server_process import ServerProcess, running_server

SERVER_FLAGS = ["--max-model-len", "256"]


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether to be thorough: tens of minutes instead of a few."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session")
def server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    with running_server(
        model=tiny_base,
        log_path=folder / "server.log",
        flags=[*SERVER_FLAGS, "--state-dir", str(folder / "state")],
    ) as running:
        yield running
