"""The SkyPilot task: by its published fields, and by a run of each node with fakes of what it starts."""

import json
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from inference_server.settings import read_settings
from tests.processes import killed_at_the_end
from trainer.config.loading import load_config
from trainer.config.sections import DoctorConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy/skypilot/regime_w.yaml"
TASK: dict[str, Any] = yaml.safe_load(FILE.read_text())


class Strict(BaseModel):
    """Unknown fields are refused, as SkyPilot does (`additionalProperties: False`)."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Resources(Strict):
    """The fields in use of https://docs.skypilot.co/en/latest/reference/yaml-spec.html and `sky/utils/schemas.py`."""

    accelerators: str = Field(pattern=r"^[\w-]+:\d+$")
    disk_size: int = Field(gt=0)


class Task(Strict):
    """The fields in use of a task, from the same sources as `Resources`."""

    name: str
    num_nodes: int = Field(ge=1)
    resources: Resources
    workdir: str
    envs: dict[str, str]
    secrets: dict[str, str | None]
    setup: str
    run: str


def test_the_task_has_skypilots_fields() -> None:
    task = Task.model_validate(TASK)
    assert task.num_nodes == 2
    # A secret that is null has to be given when the task is launched.
    assert task.secrets == {"REGIME_W_API_KEY": None}
    for name in (*task.envs, *task.secrets):
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)


@pytest.mark.parametrize("part", ["setup", "run"])
def test_its_scripts_are_bash(part: str) -> None:
    subprocess.run(["bash", "-n"], input=TASK[part], text=True, check=True)


def test_setup_is_a_target_of_the_makefile() -> None:
    ((program, target, extra),) = [shlex.split(line) for line in TASK["setup"].splitlines()]
    assert program == "make"
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()
    assert extra == "EXTRA=gpu"


class Node:
    """A node's working folder, with a fake Python that notes its arguments and then ends, or serves for ever."""

    def __init__(self, folder: Path, *, server_lasts: bool = False):
        self.folder, self.calls = folder, folder / "calls"
        for name in (".venv/bin", "deploy"):
            (folder / name).mkdir(parents=True)
        (folder / "deploy/supervise.sh").write_text((ROOT / "deploy/supervise.sh").read_text())
        python = folder / ".venv/bin/python"
        lasts = "trap 'exit 0' TERM; while :; do sleep 0.05; done" if server_lasts else ":"
        python.write_text(
            "#!/bin/bash\n"
            f'echo "$*" >> {shlex.quote(str(self.calls))}\n'
            f'case "$*" in *inference_server*) {lasts};; *" train "*) exit ${{CODE:-0}};; esac\n'
        )
        python.chmod(0o755)

    @contextmanager
    def started(
        self, rank: int, ips: str, *, run: str = TASK["run"], **variables: str
    ) -> Iterator["subprocess.Popen[str]"]:
        sky = {
            "SKYPILOT_NODE_RANK": str(rank),
            "SKYPILOT_NODE_IPS": ips,
            "SKYPILOT_NUM_NODES": str(len(ips.split())),
            "REGIME_W_API_KEY": "k",
        }
        job = subprocess.Popen(
            ["bash", "-c", run],
            cwd=self.folder,
            env={**os.environ, **TASK["envs"], **sky, **variables},
            stderr=subprocess.PIPE,
            text=True,
        )
        with killed_at_the_end(job):
            yield job

    def commands(self) -> list[list[str]]:
        """The arguments of each program that was started, with paths of configurations in the repository."""
        lines = self.calls.read_text().splitlines()
        # `$*` has lost the quotes around the list of URLs, but the list has no spaces.
        words = [line.replace("deploy/configs", f"{ROOT}/deploy/configs").split() for line in lines]
        return [each[1:] for each in words]


def settings_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASK["envs"].items():
        if name.startswith("REGIME_W_"):
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize("code", [0, 2])
def test_the_head_trains_with_every_other_node_as_server(code: int, tmp_path: Path) -> None:
    node = Node(tmp_path)
    with node.started(0, "10.0.0.1\n10.0.0.2\n10.0.0.3", CODE=str(code)) as job:
        job.communicate(timeout=300)
    assert job.returncode == code
    doctor, train = node.commands()
    found = load_config(DoctorConfig, doctor[2:], prog="t")
    assert (doctor[:2], found.role, found.ask_server) == (["trainer", "doctor"], "trainer", False)
    config = load_config(TrainConfig, train[2:], prog="t")
    assert list(config.server.urls) == ["http://10.0.0.2:8000", "http://10.0.0.3:8000"]
    assert str(config.run.folder) == "runs/sky/run"
    assert (config.run.metrics_host, config.run.metrics_port) == ("0.0.0.0", 9400)
    assert f":{config.run.metrics_port}/metrics" in TASK["run"]


def test_another_node_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path)
    with node.started(2, "127.0.0.9\n10.0.0.2\n10.0.0.3", PORT="8123", CHECK_S="0.05") as job:
        job.communicate(timeout=300)
    assert job.returncode == 0
    settings_of_the_task(monkeypatch)
    doctor, server = node.commands()
    assert load_config(DoctorConfig, doctor[2:], prog="t").role == "server"
    settings, unknown = read_settings(server[1:])
    assert (settings.host, settings.port, settings.gpu_memory_utilization) == ("0.0.0.0", 8123, 0.9)
    assert unknown == []


def test_a_server_ends_once_the_trainer_has_gone(tmp_path: Path) -> None:
    asked = threading.Event()

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            asked.set()

        def log_message(self, *_: object) -> None:
            pass

    trainer = HTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=trainer.serve_forever).start()
    run = TASK["run"].replace(":9400/metrics", f":{trainer.server_port}/metrics")
    node = Node(tmp_path, server_lasts=True)
    ips = "127.0.0.1\n127.0.0.2"
    with node.started(1, ips, run=run, CHECK_S="0.05", AWAY_CHECKS="3") as job:
        try:
            assert asked.wait(300)
            assert job.poll() is None
        finally:
            trainer.shutdown()
            trainer.server_close()
        job.communicate(timeout=300)
    assert job.returncode == 0
    assert "inference_server" in json.dumps(node.commands())


def test_a_server_whose_trainer_never_comes_ends_as_well(tmp_path: Path) -> None:
    node = Node(tmp_path, server_lasts=True)
    # Nothing listens on this address of the loopback network.
    with node.started(1, "127.0.0.9\n127.0.0.2", CHECK_S="0.05", START_CHECKS="3") as job:
        job.communicate(timeout=300)
    assert job.returncode == 0


def test_a_single_node_is_refused(tmp_path: Path) -> None:
    with Node(tmp_path).started(0, "10.0.0.1") as job:
        assert "give --num-nodes 2 or more" in job.communicate(timeout=300)[1]
    assert job.returncode == 2
