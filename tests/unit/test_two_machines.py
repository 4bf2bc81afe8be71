"""The recipe of deploy/README.md for two machines, to the letter."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.config.loading import load_config
from trainer.config.sections import DoctorConfig
from trainer.doctor import doctor
from trainer.doctor.doctor import run_doctor
from trainer.doctor.results import CheckResult, ok

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "deploy/README.md").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def lines(recipe: str) -> list[str]:
    """The commands of a section of deploy/README.md."""
    section = README.split(f"\n## {recipe}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def words_of(line: str) -> tuple[dict[str, str], str, list[str]]:
    """A command's variables, its service, and the flags of the doctor with which this service begins."""
    words = shlex.split(line)
    variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    service = words[-1]
    doctor_line = re.search(r"trainer doctor (.*)", COMPOSE[service]["command"][-1])
    assert doctor_line is not None
    flags = doctor_line[1].replace("$$TRAIN_CONFIG", str(ROOT / "deploy/configs/gsm8k_a100.toml"))
    flags = flags.replace("$$MACHINE_ROLE", variables["MACHINE_ROLE"])
    return variables, service, shlex.split(flags)


def environment(service: str, variables: dict[str, str]) -> dict[str, str]:
    """The service's environment if only these variables are set."""

    def value(match: re.Match[str]) -> str:
        default = match[3] or "" if match[2] == "-" else "key"
        return variables.get(match[1], default)

    told = COMPOSE[service]["environment"]
    return {
        name: re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", value, str(text))
        for name, text in told.items()
    }


def test_the_recipe_starts_one_service_on_each_side() -> None:
    parts = [words_of(line) for line in lines("Two machines")]
    assert [(service, variables["MACHINE_ROLE"]) for variables, service, _ in parts] == [
        ("inference", "server"),
        ("trainer", "trainer"),
    ]
    # The second command neither starts nor replaces a server.
    assert "--no-deps" in lines("Two machines")[1]


def test_the_address_that_the_server_opens_is_the_one_that_the_trainer_asks() -> None:
    server, trainer = (words_of(line)[0] for line in lines("Two machines"))
    assert trainer["SERVER_URL"] == f"http://{server['BIND_ADDRESS']}:8000"


@pytest.mark.parametrize("line", lines("Two machines"))
def test_the_doctor_lets_each_machine_start(
    line: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def server_is_fine(config: DoctorConfig) -> Iterator[CheckResult]:
        asked.append(config.server.url)
        yield ok("server", "stand-in")

    monkeypatch.setattr(doctor, "ask_server", server_is_fine)
    variables, service, flags = words_of(line)
    told: dict[str, Any] = environment(service, variables)
    told |= {"REGIME_W_POLICY__BASE_MODEL": tiny_base, "REGIME_W_RUN__FOLDER": tmp_path / "run"}
    # The tiny base has no longer context.
    told |= {"REGIME_W_SERVE__MAX_MODEL_LEN": 512, "REGIME_W_ROLLOUT__MAX_TOKENS": 128}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    # The trainer needs most of this card, more than a server with its share of 0.9 would leave.
    config = load_config(DoctorConfig, [*flags, "--card_gib", "5"], prog="doctor")
    assert run_doctor(config)
    # Either side may start first: `train` waits for a server that is away, but a doctor that asked would fail and use
    # up a restart.
    assert asked == []
    both = config.model_copy(update={"role": "both", "ask_server": False})
    both = both.model_copy(
        update={"serve": both.serve.model_copy(update={"gpu_memory_utilization": 0.9})}
    )
    assert not run_doctor(both)
