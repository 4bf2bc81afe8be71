"""deploy/compose.two_gpus.yml: which card each service has, how many servers there are, and how the trainer finds them."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference_server.settings import Settings
from tests.unit.test_deploy import DeviceRequest, merged, with_defaults
from trainer.config.loading import load_config
from trainer.config.sections import DoctorConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
FILES = ("docker-compose.yml", "deploy/compose.two_gpus.yml")
README = (ROOT / "deploy/README.md").read_text()
SECTION = README.split("\n## Two GPUs\n")[1].split("\n## ")[0]


def services() -> dict[str, dict[str, Any]]:
    files: dict[str, Any] = {}
    for path in FILES:
        files = merged(files, yaml.safe_load((ROOT / path).read_text()))
    return dict(files["services"])


def environment(service: str, **variables: str) -> dict[str, str]:
    """What a service finds in its environment if Compose has these variables besides its own."""
    variables = {"COMPOSE_PROJECT_NAME": "regime-w", **variables}
    told = services()[service]["environment"]
    return {name: with_defaults(str(value), variables) for name, value in told.items()}


def started(service: str, folder: Path, **variables: str) -> list[tuple[list[str], dict[str, str]]]:
    """Arguments and variables of the Python programs that a container starts, found by running its script with a fake."""
    fakes = {
        "python3": f'{{ echo "@ $*"; env | grep "^REGIME_W_SERVE"; }} >> {folder}/calls',
        # supervise.sh calls it.
        "setsid": 'exec "$@"',
    }
    for name, script in fakes.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    *shell, script = services()[service]["command"]
    script = with_defaults(script).replace("$$", "$")
    script = script.replace("/opt/regime-w/", f"{ROOT}/deploy/")
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    told = {**environment(service, **variables), **path}
    subprocess.run([*shell, script], env=told, check=True, timeout=300)
    calls = [call.splitlines() for call in (folder / "calls").read_text().split("@ ")[1:]]
    return [(words.split(), dict(line.split("=", 1) for line in rest)) for words, *rest in calls]


def test_each_side_has_a_card_of_its_own() -> None:
    cards = {}
    for name, service in services().items():
        (request,) = service["deploy"]["resources"]["reservations"]["devices"]
        checked = DeviceRequest.model_validate(request)
        assert (checked.driver, checked.capabilities) == ("nvidia", ["gpu"])
        assert checked.device_ids is not None
        (card,) = checked.device_ids
        cards[name] = with_defaults(card)
        variable = {"inference": "SERVER_GPU_ID", "trainer": "TRAINER_GPU_ID"}[name]
        assert with_defaults(card, {variable: "7"}) == "7"
    assert cards == {"inference": "0", "trainer": "1"}


@pytest.mark.parametrize(("servers", "share"), [("", 0.9), ("1", 0.9), ("2", 0.45), ("3", 0.3)])
def test_servers_divide_their_card(
    servers: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor, server = started("inference", tmp_path, SERVERS=servers)
    monkeypatch.chdir(ROOT / "deploy")
    for words, variables in (doctor, server):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if "doctor" in words:
            config = load_config(DoctorConfig, words[3:], prog="t")
            assert (config.role, config.ask_server) == ("server", False)
            assert config.serve.gpu_memory_utilization == pytest.approx(share)
    assert server[0][:2] == ["-m", "inference_server"]
    assert with_defaults(str(services()["inference"]["scale"]), {"SERVERS": servers}) == (
        servers or "1"
    )


def test_gpu_memory_utilization_says_otherwise(tmp_path: Path) -> None:
    (_, variables), _ = started("inference", tmp_path, SERVERS="2", GPU_MEMORY_UTILIZATION="0.3")
    assert variables["REGIME_W_SERVE__GPU_MEMORY_UTILIZATION"] == "0.3"


@pytest.mark.parametrize("servers", [1, 2, 10])
def test_the_trainer_asks_every_server_by_its_containers_name(
    servers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor, train = started("trainer", tmp_path, SERVERS=str(servers), COMPOSE_PROJECT_NAME="box_1")
    monkeypatch.chdir(ROOT / "deploy")
    for name, value in train[1].items():
        monkeypatch.setenv(name, value)
    assert load_config(DoctorConfig, doctor[0][3:], prog="t").role == "trainer"
    config = load_config(TrainConfig, train[0][3:], prog="t")
    port = Settings(model="m").port
    assert list(config.server.urls) == [
        f"http://box_1-inference-{number}:{port}" for number in range(1, servers + 1)
    ]


def test_no_two_servers_write_into_one_registry() -> None:
    inference = services()["inference"]
    (state,) = re.findall(r"--state-dir (\S+)", inference["command"][-1])
    # An anonymous volume: every container has its own.
    assert f"/data/{state}" in inference["volumes"]
    others = yaml.safe_load((ROOT / FILES[0]).read_text())["services"]["inference"]["volumes"]
    named = [mount for mount in others if f":/data/{state}" not in mount]
    assert [mount for mount in inference["volumes"] if ":" in mount] == named


def test_the_guide_names_the_files_and_a_port_for_each_server() -> None:
    assert " ".join(f"-f {path}" for path in FILES) in SECTION
    assert f"COMPOSE_FILE={':'.join(FILES)}" in SECTION
    (servers, first, last) = re.findall(r"SERVERS=(\d+) PORT=(\d+)-(\d+) ", SECTION)[0]
    assert int(last) - int(first) + 1 == int(servers)
    (port,) = services()["inference"]["ports"]
    assert with_defaults(port, {"PORT": f"{first}-{last}"}) == f"127.0.0.1:{first}-{last}:8000"
