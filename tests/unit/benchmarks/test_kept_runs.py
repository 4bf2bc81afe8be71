"""Runs that a benchmark finds in its folder are of the settings that it was asked for."""

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

Open = Callable[..., Path]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens a folder with settings as a benchmark does; benchmarks/ is not a package, so its file is loaded."""
    path = Path(__file__).parents[3] / "benchmarks/learning/kept_runs.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def open_folder(**settings: object) -> Path:
        arguments = argparse.Namespace(folder=tmp_path / "runs", **settings)
        found: Path = module.folder_of_runs(
            argparse.ArgumentParser("b", allow_abbrev=False), arguments, *settings
        )
        return found

    return open_folder


def test_the_same_settings_find_their_folder_again(opened: Open) -> None:
    folder = opened(task="three-steps", steps=12)
    assert folder.is_dir()
    assert opened(task="three-steps", steps=12) == folder


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"task": "word-problems", "steps": 12}, "--task three-steps and not word-problems"),
        ({"task": "three-steps", "steps": 1}, "--steps 12 and not 1"),
    ],
)
def test_runs_of_other_settings_are_not_taken_for_these(
    settings: dict[str, object], says: str, opened: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(task="three-steps", steps=12)
    with pytest.raises(SystemExit, match="2"):
        opened(**settings)
    assert says in capsys.readouterr().err


def test_a_folder_of_unknown_files_is_refused(
    opened: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs/ours-0").mkdir(parents=True)
    with pytest.raises(SystemExit, match="2"):
        opened(task="three-steps")
    assert "give another --folder" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_said_before_anything_begins(
    opened: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        opened(model=tmp_path / "nope")
    assert "no model is there" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
