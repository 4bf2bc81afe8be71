"""One question through all arms."""

import asyncio
import socket

import pytest

from trainer.commands import sample as sample_command
from trainer.config.sections import SampleConfig, ServerConfig
from trainer.errors import ServerError


def test_a_dead_server_is_not_waited_for_as_long_as_training_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sample_command, "PATIENCE_S", 0.5)
    with socket.socket() as closed:
        # Bound and not listening: a connection is refused.
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        config = SampleConfig(question="q", server=ServerConfig(url=url, give_up_after_s=600))
        with pytest.raises(ServerError, match=r"within 0\.5 s: .*is the server up"):
            asyncio.run(sample_command.sample(config))
