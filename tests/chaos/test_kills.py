"""SIGKILL of the trainer and of the server at random moments: the run ends as if nothing had happened."""

import logging
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from inference_server.launch.server_process import ServerProcess, free_port
from tests.chaos.trainer_process import TrainerProcess
from tests.conftest import SERVER_FLAGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

_log = logging.getLogger(__name__)

MAX_DELAY_S = 2.0
STARTING_S = 12.0


@dataclass(frozen=True, kw_only=True)
class Kill:
    victim: str
    after_step: int
    """The kill follows ``delay_s`` after this step was journaled."""
    delay_s: float


def schedule(seed: int, *, num_trainer: int, num_server: int, num_steps: int) -> list[Kill]:
    """Kills spread over a run; a third of the trainer's come while it starts, after another kill."""
    rng = random.Random(seed)
    last = round(0.7 * num_steps)
    kills = []
    for victim, count in (("trainer", num_trainer - num_trainer // 3), ("server", num_server)):
        for index in range(count):
            after = round((index + rng.random()) * last / count)
            kills.append(Kill(victim=victim, after_step=after, delay_s=rng.uniform(0, MAX_DELAY_S)))
    kills.sort(key=lambda kill: kill.after_step)
    places = [i for i, kill in enumerate(kills) if kill.victim == "trainer"]
    for place in sorted(rng.sample(places, num_trainer // 3), reverse=True):
        again = Kill(victim="trainer", after_step=0, delay_s=rng.uniform(0, STARTING_S))
        kills.insert(place + 1, again)
    return kills


class Server:
    """A server that always listens on the same port; every second start has an empty state folder."""

    def __init__(self, model: Path, folder: Path):
        self._model = model
        self._folder = folder
        self._port = free_port()
        self.num_starts = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self.num_starts += 1
        self.process = ServerProcess.start(
            model=self._model,
            port=self._port,
            log_path=self._folder / f"server-{self.num_starts}.log",
            flags=[
                *SERVER_FLAGS,
                "--state-dir",
                str(self._folder / f"state-{self.num_starts // 2}"),
            ],
        )

    def kill(self) -> None:
        os.killpg(self.process.process.pid, signal.SIGKILL)
        self.process.process.wait()
        self.start()

    def stop(self) -> None:
        self.process.stop()


@contextmanager
def server_that_is_killed(model: Path, folder: Path) -> Iterator[Server]:
    server = Server(model, folder)
    try:
        server.process.wait_until_healthy()
        yield server
    finally:
        server.stop()


def test_kills_cost_time_and_nothing_else(tiny_base: Path, tmp_path: Path, soak: bool) -> None:
    num_steps, num_trainer, num_server = (160, 30, 10) if soak else (7, 1, 1)
    kills = schedule(7, num_trainer=num_trainer, num_server=num_server, num_steps=num_steps)
    with server_that_is_killed(tiny_base, tmp_path) as server:
        trainer = TrainerProcess(server.url, tiny_base, tmp_path / "run", num_steps=num_steps)
        with ExitStack() as stack:
            process = stack.enter_context(trainer.started())
            # The server is killed while the trainer works, so that the trainer mostly sees it come back.
            next_server_kill = next_kill = 1
            for number, kill in enumerate(kills, 1):
                first = next_server_kill if kill.victim == "server" else next_kill
                wait_for_step(trainer, process, max(kill.after_step, first))
                time.sleep(kill.delay_s)
                step = trainer.last_journaled_step()
                _log.info("kill %d of %d: %s at step %d", number, len(kills), kill.victim, step)
                if kill.victim == "server":
                    server.kill()
                    if number % 4:
                        next_kill = step + 2
                else:
                    assert process.poll() is None, trainer.tail()
                    process.kill()
                    process.wait()
                    process = stack.enter_context(trainer.started())
                next_server_kill = step + 2
            assert process.wait(1200) == 0, trainer.tail()
    assert trainer.events("server_restarted")
    trainer.require_whole()
    trainer.require_replayed()


def wait_for_step(trainer: TrainerProcess, process: subprocess.Popen[bytes], step: int) -> None:
    deadline_s = time.monotonic() + 600
    while trainer.last_journaled_step() < step:
        assert process.poll() is None, trainer.tail()
        assert time.monotonic() < deadline_s, trainer.tail()
        time.sleep(0.02)
