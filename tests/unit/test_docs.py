"""README and docs/ say what holds: links, generated pages, and commands that their programs understand."""

import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_server.settings import read_settings
from trainer.cli import COMMANDS
from trainer.config.loading import load_config

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


def commands() -> Iterator[tuple[str, str]]:
    """Every command of ours in a block of shell, with the page that it stands in."""
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if TRAINER in line or SERVER in line:
                    yield str(page.relative_to(ROOT)), line.strip()


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
    """The file of one's own that docs/own.md shows."""
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
