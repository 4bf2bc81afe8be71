"""A run's own files: what stands in their place and is none is named, and nobody waits for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config.sections import RunConfig, TrainConfig
from trainer.console.tracking import METRICS_FILE, Tracker, read_metrics
from trainer.errors import TrainerError
from trainer.io.jsonl import read_lines
from trainer.io.kept_settings import (
    CONFIG_FILE,
    keep_settings,
    kept_dtype,
    read_run_config,
    training_data,
)
from trainer.io.paths import is_lasting, read_plain
from trainer.run_state.journal import Journal
from trainer.run_state.journal_entries import JOURNAL_FILE
from trainer.run_state.journal_reader import JournalReader

Make = Callable[[Path], None]
NO_FILES: dict[str, Make] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture(params=NO_FILES)
def make(request: pytest.FixtureRequest) -> Make:
    return NO_FILES[request.param]


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "configuration": (CONFIG_FILE, read_run_config),
    "settings": (
        CONFIG_FILE,
        lambda folder: keep_settings(folder / CONFIG_FILE, TrainConfig(), free=()),
    ),
    "journal": (JOURNAL_FILE, Journal),
    "journal to read": (JOURNAL_FILE, JournalReader),
    "rows": (
        "rows.jsonl",
        lambda folder: list(read_lines(folder / "rows.jsonl")),
    ),
    "metrics": (
        METRICS_FILE,
        lambda folder: Tracker(RunConfig(folder=folder), first_step=0),
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_named_in_one_line(reader: str, make: Make, tmp_path: Path) -> None:
    name, read = READERS[reader]
    make(tmp_path / name)
    with pytest.raises((TrainerError, OSError)) as caught:
        read(tmp_path)
    error = caught.value
    if isinstance(error, OSError):  # of which the command line makes a line
        assert is_lasting(error)
        assert error.filename == str(tmp_path / name)
    else:
        assert str(tmp_path / name) in str(error)
        assert "\n" not in str(error)


def test_what_is_optional_is_passed_over(make: Make, tmp_path: Path) -> None:
    make(tmp_path / CONFIG_FILE)
    assert kept_dtype(tmp_path / CONFIG_FILE) is None
    assert training_data(tmp_path) is None
    make(tmp_path / METRICS_FILE)
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize(
    "line", ["[1]", '"x"', "{}", '{"step": NaN}', '{"step": 1e999}', "[" * 9999]
)
def test_a_damaged_line_of_metrics_ends_them(line: str, tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_text(f'{{"step": 1, "a": 0.5}}\n{line}\n{{"step": 2}}\n')
    assert read_metrics(tmp_path) == [{"step": 1, "a": 0.5}]
    path.write_bytes(b'{"step": 1}\n\xff\n')
    assert read_metrics(tmp_path) == [{"step": 1}]


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_plain(tmp_path / "file") == read_plain(tmp_path / "link") == b"content"
