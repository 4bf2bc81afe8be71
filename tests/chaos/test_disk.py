"""A disk of 64 MiB that is full: the run says so and stops, no file is torn, and the run goes on once there is space."""

import errno
import logging
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_server.launch.server_process import ServerProcess
from tests.chaos.trainer_process import TrainerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_log = logging.getLogger(__name__)

SIZE_MIB = 64
NUM_STEPS = 12
DISK_FULL = 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a file system of limited size needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, left_bytes: int) -> Path:
    """Write a file that leaves ``left_bytes`` of the disk free."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        while True:
            stats = os.statvfs(disk)
            size = stats.f_bavail * stats.f_frsize - left_bytes
            if size <= 0:
                return ballast
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                os.ftruncate(file.fileno(), 0)  # the trainer has written meanwhile
            else:
                return ballast


def test_a_full_disk_stops_the_run_whole_and_space_lets_it_go_on(
    server: ServerProcess, tiny_base: Path, small_disk: Path, tmp_path: Path, soak: bool
) -> None:
    # More steps than the rounds below can take: a round leaves up to 2 MiB, which is enough for some steps.
    num_steps = 75 if soak else NUM_STEPS
    trainer = TrainerProcess(server.url, tiny_base, small_disk / "run", num_steps=num_steps)
    trainer.log = tmp_path / "run.log"
    rng = random.Random(8)
    # Whatever is written next finds the disk full: rollouts, an adapter, a checkpoint, a line of metrics.
    lefts = [0, 2**17]
    if soak:
        lefts += [2**14, *(rng.randrange(2**21) for _ in range(12))]
    for number, left_bytes in enumerate(lefts):
        with trainer.started() as process:
            begun_at = trainer.last_journaled_step()
            while process.poll() is None and trainer.last_journaled_step() == begun_at:
                time.sleep(0.02)
            ballast = fill(small_disk, left_bytes=left_bytes)
            code = process.wait(300)
        last_line = trainer.tail().splitlines()[-1]
        assert code == DISK_FULL, trainer.tail()
        assert "error: no space left on the disk of" in last_line
        assert str(small_disk / "run") in last_line
        trainer.require_no_torn_file()
        ballast.unlink()
        _log.info(
            "round %d: %d bytes left, stopped after step %d",
            number,
            left_bytes,
            trainer.last_journaled_step(),
        )
    assert "Traceback" not in trainer.log.read_text()
    trainer.finish()
    trainer.require_whole()
    trainer.require_replayed()
