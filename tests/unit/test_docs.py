"""README and docs/ say what holds: links, generated pages, and commands that their programs understand."""

import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

from inference_server.settings import read_settings
from inference_server.wire.schemas import ArmsRequest
from inference_server.wire.settings.errors import known_keys
from trainer.cli import COMMANDS
from trainer.config.loading import load_config
from trainer.config.sections import TrainConfig
from trainer.console.metric_catalog import METRICS
from trainer.run_state.run_folder import FREE_SETTINGS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "deploy/README.md", *sorted((ROOT / "docs").glob("*.md"))]
TRAINER, SERVER = "-m trainer ", "-m inference_server "


@pytest.mark.parametrize("name", ["settings", "metrics"])
def test_generated_pages_are_as_the_code_says(name: str) -> None:
    generator = runpy.run_path(str(ROOT / "scripts/reference_pages.py"))
    committed = (ROOT / f"docs/{name}.md").read_text()
    assert committed == generator[f"{name}_page"](), "run python scripts/reference_pages.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    files = [each.split("#")[0] for each in targets if not each.startswith(("http", "#"))]
    assert [each for each in files if not (page.parent / each).exists()] == []


OTHERS = {
    ".venv/bin/python examples/minimal_ppo.py": "tests/integration/test_minimal_ppo.py runs it",
    ".venv/bin/python scripts/real_model.py": "tests/unit/test_real_model.py runs it",
    "OPENAI_API_KEY=": "tests/integration/test_lm_eval.py runs it",
    "curl -s http://127.0.0.1:8000/v1/": "tests/integration/test_http_surface.py asks these routes",
    "curl -s localhost:8000/v1/": "tests/integration/test_http_surface.py asks these routes",
    "make demo": "tests/integration/test_recipe.py runs its stages; all of it takes three minutes",
    "source <(regime-w ": "tests/unit/trainer/commands/test_completion.py runs the script",
    "RUN_NAME=": "tests/unit/test_launchers.py runs the script",
    "sbatch --nodes=3": "tests/unit/test_launchers.py runs the script",
    "SERVERS=": "tests/unit/test_two_gpus.py runs the containers' scripts",
    "sky launch ": "tests/unit/test_skypilot.py runs the script",
    "python -m benchmarks.scaling ": "tests/unit/benchmarks/test_scaling.py runs it",
    # These are not runnable here, for the reasons given. tests/unit/test_deploy.py checks the files that they read.
    "MACHINE_ROLE=": "needs Docker",
    "docker ": "needs Docker",
    "git pull && docker": "needs Docker",
    ". ./.env": "reads the key that the command before has written",
    "cp .env.example .env": "writes into the clone",
    "sed -i ": "writes the key into .env",
    "curl -fsSL https://": "installs software from the network",
    "sed 's#deb https://": "installs software from the network",
    "export REGIME_W_API_KEY=": "makes the key that the command after it takes",
    "kubectl ": "needs a cluster",
    "sudo ": "changes the machine",
    "ssh -L ": "needs a second machine",
}
"""How the other commands of the pages begin, and which test runs them or why none does."""


def shell_lines() -> Iterator[tuple[str, str]]:
    """Every command in a shell block, with its page."""
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield str(page.relative_to(ROOT)), _as_module(line.strip())


def _as_module(line: str) -> str:
    """Replace an installed program by the Python module that it runs."""
    for program, module in (("regime-w", TRAINER), ("regime-w-server", SERVER)):
        line = re.sub(rf"^(?:\.venv/bin/)?{program} ", f".venv/bin/python {module}", line)
    return line


def commands() -> Iterator[tuple[str, str]]:
    """Every command of the trainer or the server, with its page."""
    for page, line in shell_lines():
        if TRAINER in line or SERVER in line:
            yield page, line


def test_every_other_command_is_run_by_a_test_or_not_runnable_here() -> None:
    others = {line for _, line in shell_lines()} - {line for _, line in commands()}
    begins = {line: [start for start in OTHERS if line.startswith(start)] for line in others}
    assert [line for line, found in begins.items() if not found] == []
    assert {start for found in begins.values() for start in found} == set(OTHERS)
    tests = [reason.split()[0] for reason in OTHERS.values() if reason.startswith("tests/")]
    assert [test for test in tests if not (ROOT / test).is_file()] == []


def test_bodies_of_the_pages_are_requests() -> None:
    bodies = [
        shlex.split(line)[shlex.split(line).index("-d") + 1]
        for _, line in shell_lines()
        if line.startswith("curl -s ") and "/v1/arms/generate" in line
    ]
    assert len(bodies) >= 3
    for body in bodies:
        assert ArmsRequest.model_validate_json(body).questions


@pytest.mark.parametrize(("page", "line"), [*commands()])
def test_commands_are_understood(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(mine())
    for name in ("deploy", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    # In the image the presets lie beside the program.
    (tmp_path / "configs").symlink_to(ROOT / "deploy/configs")
    monkeypatch.chdir(tmp_path)
    if SERVER in line:
        assert read_settings(shlex.split(line.split(SERVER)[1], comments=True))
        return
    command, *given = shlex.split(line.split(TRAINER)[1], comments=True)
    assert command in COMMANDS
    assert load_config(COMMANDS[command].config, given, prog=command)


def mine() -> str:
    """The configuration file that docs/own.md shows as an example of a user's own."""
    return toml_of_own_page("base_model")


def toml_of_own_page(key: str) -> str:
    """The one example of a configuration in docs/own.md that has ``key``."""
    page = (ROOT / "docs/own.md").read_text()
    blocks: list[str] = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    (text,) = (block for block in blocks if key in block)
    return text


def test_arms_of_the_page_are_arms() -> None:
    arms = tomllib.loads(toml_of_own_page("rollout.arms"))["rollout"]["arms"]
    assert [arm["name"] for arm in arms] == ["brief_0", "careful_0"]


def test_the_page_of_long_runs_names_what_may_change_between_starts() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    (paragraph,) = re.findall(r"^\*\*The configuration has changed.*?\n\n", page, re.M | re.S)
    keys = re.findall(r"`([a-z_.]+)`", paragraph.partition("what it keeps:")[2].partition(". ")[0])
    assert sorted(keys) == sorted(FREE_SETTINGS)


def test_the_page_for_users_of_trl_names_what_there_is() -> None:
    settings, metrics = (ROOT / "docs/trl-and-verl.md").read_text().split("\n## Metrics\n")
    rows = [row.strip("|").split("|") for row in settings.splitlines() if row.startswith("| ")]
    sections = "|".join(TrainConfig.model_fields)
    ours = {key for *_, cell in rows for key in re.findall(rf"`((?:{sections})\.\w+)", cell)}
    assert len(ours) > 40
    assert ours - set(known_keys(TrainConfig)) == set()
    theirs = {name for cell, *_ in rows for name in re.findall(r"`(\w+)`", cell)}
    # Of the trainer's own arguments, and of one argument the values.
    rest = {"model", "reward_funcs", "train_dataset", "eval_dataset", "dapo", "grpo"}
    assert theirs - arguments_of_trl() == rest
    shown = {
        name
        for row in metrics.splitlines()
        if row.startswith("| ")
        for name in re.findall(r"`([\w/]+)`", row.rpartition(" | ")[2])
    }
    assert len(shown) > 10
    assert {
        name for name in shown if not any(fnmatch(name, metric.key) for metric in METRICS)
    } == set()


def arguments_of_trl() -> set[str]:
    """The arguments of GRPO and of LoRA, without importing them."""
    found = set[str]()
    for package, path in {
        "trl": "trainer/grpo_config.py",
        "transformers": "training_args.py",
        "peft": "tuners/lora/config.py",
    }.items():
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        source = (Path(spec.origin).parent / path).read_text()
        found |= set(re.findall(r"^    (\w+): ", source, re.M))
    return found
