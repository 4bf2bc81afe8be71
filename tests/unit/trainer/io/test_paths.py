"""Paths that cannot be used are found before any work, and end in one line and exit code 2."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import trainer.cli
from trainer.cli import main
from trainer.client.model_spec import ModelSpec
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.errors import DataError, TrainerError, UsageError
from trainer.io.paths import require_folder, require_rollouts
from trainer.run_state.run_folder import require_whole_run


def a_file(path: Path) -> Path:
    path.write_text("")
    return path


def a_dangling_link(path: Path) -> Path:
    path.symlink_to(path.with_name("nowhere"))
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (a_file, "it is a file"),
        (lambda path: a_file(path) / "run", "is a file"),
        (a_dangling_link, "a link to what does not exist"),
        (lambda path: a_dangling_link(path) / "run", "is a dangling link"),
        (lambda path: path.with_name("x" * 300), "File name too long"),
        (lambda path: path / "a\0b", "null byte"),
        (lambda path: path / "by\udcffte", "its name is not UTF-8"),
    ],
    ids=[
        "file",
        "below a file",
        "dangling",
        "below dangling",
        "too long",
        "null byte",
        "not UTF-8",
    ],
)
def test_a_run_folder_that_cannot_be_made_is_refused(
    make: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "run")
    with pytest.raises(UsageError, match=r"^run\.folder: ") as caught:
        require_whole_run(folder)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_folder_that_cannot_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UsageError, match=r"^output: .* cannot be written to; choose another"):
        require_folder(tmp_path / "new/run", field="output")


def test_a_folder_that_can_be_made_is_not_made(tmp_path: Path) -> None:
    require_folder(tmp_path / "a/b", field="run.folder")
    require_folder(tmp_path, field="run.folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["x" * 5000, "x" * 5000 + "#train", "a\0b", "a#" + "b" * 5000])
def test_a_data_source_of_any_length_is_one_short_line(source: str) -> None:
    with pytest.raises(TrainerError, match="data source") as caught:
        load_records(source, Split.TRAIN, num_records=1)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError(2, "No such file or directory", "x/y"), 2),
        (PermissionError(13, "Permission denied", "x/y"), 2),
        (OSError(36, "File name too long", "x" * 5000), 2),
        (OSError(28, "No space left on device", "x/y"), 3),
        (OSError(5, "Input/output error", "x/y"), None),
        (OSError("something else"), None),
    ],
)
def test_an_error_of_a_path_is_one_line_with_the_exit_code_of_its_kind(
    error: OSError,
    code: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(trainer.cli, "load_config", fail)
    monkeypatch.setattr(sys, "argv", ["trainer", "report", "x"])
    if code is None:
        with pytest.raises(OSError, match=str(error.strerror or error)):
            main()
        return
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert "x" in line
    assert len(line) < 400


def test_a_model_of_any_length_is_an_error_of_the_user() -> None:
    with pytest.raises((UsageError, OSError)):
        ModelSpec.parse("x" * 5000, field="model")


@pytest.mark.parametrize("name", ["", "rollouts"])
def test_a_run_in_place_of_a_file_of_rollouts_is_refused_with_how_to_make_one(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "rollouts").mkdir()
    with pytest.raises(DataError) as caught:
        require_rollouts(tmp_path / name, field="rollouts")
    assert str(caught.value) == (
        f"rollouts: {tmp_path / name}: a folder, and no file; make one file of the files of a run: "
        f"cat {tmp_path}/rollouts/*.jsonl > rollouts.jsonl"
    )
