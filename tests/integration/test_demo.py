"""The first command of a newcomer, in an empty folder: all six stages, and the same run recomputed from its journal."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from inference_server.launch.server_process import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )


def test_the_demo_does_all_of_it_and_its_run_can_be_recomputed(tmp_path: Path) -> None:
    port = free_port()
    done = run(tmp_path, "demo", "--port", port, "--num_steps", 2, "--num_questions", 24)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^\[(\d)/6\]", done.stdout, re.MULTILINE) == list("123456")
    assert "Is RL helping?" in done.stdout
    assert "of 24 held-out questions" in done.stdout
    assert (tmp_path / "runs/demo/report.html").is_file()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
    # The preset's steps are large enough for PyTorch to divide their work among its threads.
    replayed = run(tmp_path, "replay", "runs/demo", "--verify")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "2 steps, 3 adapters: all digests and metrics are as recorded" in replayed.stdout
