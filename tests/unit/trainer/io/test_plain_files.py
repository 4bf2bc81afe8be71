"""A run's own files: anything else in the place of one is named in an error, and nothing waits for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config.sections import EvaluationConfig, RunConfig, TrainConfig
from trainer.console.run_output import RunOutput
from trainer.errors import DataError, TrainerError, UsageError
from trainer.evaluation.training_settings import with_training_settings
from trainer.io.adapter_settings import adapter_prompt_format, kept_dtype, training_data
from trainer.io.jsonl import read_lines
from trainer.io.kept_settings import CONFIG_FILE, keep_settings, read_run_config
from trainer.io.metrics_file import METRICS_FILE, read_metrics
from trainer.io.paths import is_lasting, read_plain
from trainer.io.run_layout import JOURNAL_FILE
from trainer.report.run_record import read_run
from trainer.run_state.journal import Journal
from trainer.run_state.journal_reader import JournalReader
from trainer.run_state.run_folder import require_whole_run

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
        lambda folder: RunOutput(RunConfig(folder=folder), first_step=0),
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
    "line",
    [
        *(b"[1]", b'"x"', b"{}", b'{"step": NaN}', b'{"step": 1e999}', b"[" * 9999, b"\xff"),
        *(b'{"step": true}', b'{"step": -1}', '{"step": 2, "größe": 1}'.encode("latin-1")),
        *(
            b'{"step": 2, "eval/step": ' + value + b"}"
            for value in (b'"x"', b"null", b"[1]", b"NaN", b"1e999", b"9" * 5000, b"[" * 900)
        ),
    ],
)
def test_a_damaged_line_of_metrics_is_named_unless_it_is_the_last(
    line: bytes, tmp_path: Path
) -> None:
    path = tmp_path / METRICS_FILE
    path.write_bytes(b'{"step": 1, "a": 0.5}\n' + line + b'\n{"step": 2}\n')
    readers: list[Callable[[Path], object]] = [
        read_metrics,
        lambda folder: RunOutput(RunConfig(folder=folder), first_step=2),
    ]
    for read in readers:
        with pytest.raises(DataError) as caught:
            read(tmp_path)
        assert str(caught.value) == f"{path}:2: not a line of metrics; remove it"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    assert read_metrics(tmp_path) == [{"step": 1}]


DAMAGED = {
    "Latin-1": "# größe\n".encode("latin-1"),
    "UTF-16": '[data]\nsource = "x"\n'.encode("utf-16"),
    "a number of 5,000 digits": b"a = " + b"9" * 5000,
    "nested": b"a = " + b"[" * 5000,
    "zeros": bytes(100),
}
COMMANDS: dict[str, Callable[[Path], object]] = {
    "report": read_run,
    "replay": read_run_config,
    "eval": lambda run: with_training_settings(EvaluationConfig(models=(f"A={run}",))),
    "eval's training data": lambda run: training_data(run / "adapters/policy-000001"),
    "train": require_whole_run,
    "train from it": lambda run: adapter_prompt_format(run / "start"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_whose_settings_are_damaged_is_one_line_in_every_command(
    command: str, content: bytes, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapters/policy-000001"
    adapter.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).touch()
    (tmp_path / "checkpoints/step-000000").mkdir(parents=True)
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n')
    (tmp_path / CONFIG_FILE).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        COMMANDS[command](tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / CONFIG_FILE}: ")
    assert "\n" not in str(caught.value)
    (tmp_path / CONFIG_FILE).write_bytes(b"\xef\xbb\xbf[policy]\n[ppo]\n[run]\nseed = 3\n")
    COMMANDS[command](tmp_path)


@pytest.mark.parametrize("text", ["rollout = 3\n", "rollout = [1]\nsft = 1\ndata = 2\n"])
def test_sections_that_are_none_say_nothing_of_an_adapter(text: str, tmp_path: Path) -> None:
    adapter = tmp_path / "adapters/policy-000001"
    adapter.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).touch()
    (tmp_path / CONFIG_FILE).write_text(text)
    config = EvaluationConfig(models=(f"A={adapter}",))
    assert with_training_settings(config) == (config, None)
    assert training_data(adapter) is None


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_plain(tmp_path / "file") == read_plain(tmp_path / "link") == b"content"
