"""What keeps the code readable: short functions, short files, folders that fit a screen."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("regime_w", "trainer", "inference_server")
PROGRAMS = ("benchmarks", "examples", "scripts")
FILES = sorted(path for folder in (*PACKAGES, *PROGRAMS) for path in (ROOT / folder).rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})

MAX_FILE_LINES = 250
MAX_FUNCTION_LINES = 60
MAX_MODULES = 14
WHOLE = ROOT / "examples/minimal_ppo.py"
"""The whole idea in one file, to be read from top to bottom; it may be longer."""


def test_packages_and_programs_were_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == {*PACKAGES, *PROGRAMS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES or path == WHOLE
    too_long = {
        node.name: length
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and (length := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert too_long == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_folders_hold_few_modules(folder: Path) -> None:
    modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES, modules


def test_no_command_line_takes_abbreviated_flags() -> None:
    """Code that looks for a flag by its name would miss an abbreviation of it."""
    folders = (*PACKAGES, *PROGRAMS, "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    parsers = [
        (path.relative_to(ROOT), ast.unparse(call))
        for path in files
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith(("ArgumentParser", "OneLineParser", "add_parser"))
    ]
    assert len(parsers) > 10
    assert [one for one in parsers if "allow_abbrev=False" not in one[1]] == []


def test_the_trainer_may_import_nothing_of_the_server_but_its_wire() -> None:
    """The contract in pyproject.toml lists what is forbidden; a new part of the server belongs there."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (forbidden,) = (
        set(contract["forbidden_modules"])
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract.get("source_modules") == ["trainer"]
    )
    server = ROOT / "inference_server"
    parts = {path.stem for path in server.iterdir() if path.suffix == ".py"}
    parts |= {path.name for path in server.iterdir() if (path / "__init__.py").exists()}
    allowed = {"wire", "__init__", "__main__"}
    assert forbidden == {f"inference_server.{part}" for part in parts - allowed}


@pytest.mark.parametrize("package", ["trainer", "inference_server"])
def test_contributing_says_what_each_package_is_for(package: str) -> None:
    said = (ROOT / "CONTRIBUTING.md").read_text()
    packages = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert {name for name in packages if f"`{name}/`" not in said} == set()
