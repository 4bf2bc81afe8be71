"""Signals, and a server that stays away: the run ends in good order, with the exit code that says why."""

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from inference_server.launch.server_process import ServerProcess
from tests.chaos.proxy import Fault, Schedule, faulty_proxy
from tests.chaos.trainer_process import TrainerProcess
from tests.waiting import wait_until
from trainer.console.terminal import CONSOLE_FILE
from trainer.io.run_layout import checkpoint_folders, step_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SERVER_IS_GONE = 3


def test_a_signal_stops_the_run_even_while_the_server_is_away(
    server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    silent = Schedule(seed=0, rate=0.0, faults=(Fault.REFUSE,))
    with faulty_proxy(server.url, silent) as proxy:
        trainer = TrainerProcess(proxy.url, tiny_base, tmp_path / "run", num_steps=7)
        with trainer.started() as process:
            wait_until(lambda: len(trainer.rows()) >= 2)
            silent.rate = 1.0
            wait_until(lambda: bool(trainer.events("server_fails")))
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(300) == 0, trainer.tail()
        silent.rate = 0.0
        assert "the same command resumes" in trainer.tail()
        trainer.finish()
    trainer.require_whole()


def test_a_server_that_stays_away_is_given_up_with_a_checkpoint(
    server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    silent = Schedule(seed=0, rate=0.0, faults=(Fault.REFUSE,))
    with faulty_proxy(server.url, silent) as proxy:
        options = {"server.give_up_after_s": "2", "run.checkpoint_every": "1000"}
        trainer = TrainerProcess(proxy.url, tiny_base, tmp_path / "run", num_steps=9, **options)
        with trainer.started() as process:
            wait_until(lambda: len(trainer.rows()) >= 2)
            silent.rate = 1.0
            assert process.wait(300) == SERVER_IS_GONE, trainer.tail()
        last_line = trainer.tail().splitlines()[-1]
        assert f"no answer from {proxy.url}" in last_line
        assert "Traceback" not in trainer.log.read_text()
        # The last finished step has a checkpoint, or the step after it is in the journal.
        (*_, newest) = checkpoint_folders(trainer.run)
        done = len(trainer.rows())
        assert step_of(newest) == done or trainer.last_journaled_step() == done + 1
        silent.rate = 0.0
        trainer.finish()
    trainer.require_whole()


def test_a_run_outlives_its_terminal(
    server: ServerProcess, tiny_base: Path, tmp_path: Path
) -> None:
    trainer = TrainerProcess(server.url, tiny_base, tmp_path / "run", num_steps=6)
    terminal, inner = pty.openpty()
    # As under script(1): the trainer has a session of its own, with this terminal as its controlling terminal.
    command = ["setsid", "--ctty", *trainer.command]
    process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner)
    os.close(inner)
    try:
        wait_until(lambda: drained(terminal) and len(trainer.rows()) >= 2)
        os.close(terminal)
        assert process.wait(300) == 0
    finally:
        process.kill()
        process.wait()
    assert "step    6" in (trainer.run / CONSOLE_FILE).read_text()
    trainer.require_whole()


def drained(terminal: int) -> bool:
    """Reads what the terminal has, since one that nobody reads makes its writers wait; always true."""
    os.set_blocking(terminal, False)
    try:
        while os.read(terminal, 4096):
            pass
    except BlockingIOError:
        pass
    return True
