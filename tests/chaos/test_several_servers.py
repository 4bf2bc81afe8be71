"""SIGKILL of one random server of several at a time: the others go on, and the run ends as if nothing had happened."""

import json
import logging
import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.chaos.test_kills import Server, server_that_is_killed, wait_for_step
from tests.chaos.trainer_process import TrainerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

_log = logging.getLogger(__name__)


def answers(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/health", timeout=5.0, trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_servers_that_are_killed_cost_no_question(
    tiny_base: Path, tmp_path: Path, soak: bool
) -> None:
    num_servers, num_kills, num_steps = (3, 10, 40) if soak else (2, 1, 8)
    rng = random.Random(11)
    with ExitStack() as stack:
        servers: list[Server] = []
        for number in range(num_servers):
            folder = tmp_path / f"server-{number}"
            folder.mkdir()
            servers.append(stack.enter_context(server_that_is_killed(tiny_base, folder)))
        urls = [server.url for server in servers]
        trainer = TrainerProcess(
            urls[0],
            tiny_base,
            tmp_path / "run",
            num_steps=num_steps,
            **{"server.urls": json.dumps(urls)},
        )
        process = stack.enter_context(trainer.started())
        for number in range(num_kills):
            wait_for_step(trainer, process, 2 + round(number * 0.8 * num_steps / num_kills))
            up = [server for server in servers if answers(server)]
            victim = rng.choice(up or servers)
            victim.kill()
            _log.info(
                "kill %d of %d at step %d: %s, %d were up",
                *(number + 1, num_kills, trainer.last_journaled_step(), victim.url, len(up)),
            )
        assert process.wait(1200) == 0, trainer.tail()
    made = Counter(group["server"] for group in trainer.groups())
    _log.info("groups by server %s", dict(made))
    for name in ("server_left", "server_back", "server_not_asked"):
        _log.info("%s %d", name, len(trainer.events(name)))
    assert made.keys() <= set(urls)
    assert trainer.events("server_left")
    trainer.require_whole()
    trainer.require_replayed()
