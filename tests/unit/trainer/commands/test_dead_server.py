"""Commands that somebody waits for give up after seconds on a server that is not there."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from trainer.commands.sample import sample
from trainer.config import server as server_config
from trainer.config.sections import DoctorConfig, SampleConfig, ServerConfig
from trainer.doctor.results import CheckStatus
from trainer.doctor.server import ask_server
from trainer.errors import ServerError


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerConfig]:
    """A server that cannot be reached, which training would wait for."""
    monkeypatch.setattr(server_config, "PATIENCE_S", 0.5)
    with socket.socket() as closed:
        # Bound and not listening: a connection is refused.
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        yield ServerConfig(url=url, give_up_after_s=600)


def test_sample_does_not_wait_for_a_dead_server(dead: ServerConfig) -> None:
    with pytest.raises(ServerError, match=r"within 0\.5 s: .*is the server up"):
        asyncio.run(sample(SampleConfig(question="q", server=dead)))


def test_doctor_does_not_wait_for_a_dead_server(dead: ServerConfig) -> None:
    (found,) = ask_server(DoctorConfig(server=dead))
    assert found.status is CheckStatus.BAD
    assert "within 0.5 s" in found.text


def test_a_shorter_patience_is_kept() -> None:
    assert ServerConfig(give_up_after_s=1).for_terminal().give_up_after_s == 1
    assert ServerConfig().for_terminal().give_up_after_s == server_config.PATIENCE_S
