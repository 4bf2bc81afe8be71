"""The programs of `regime_w`, when the reader of their output ends first, as ``head`` does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from regime_w import demo
from regime_w.__main__ import main
from regime_w.piped_output import ending_with_the_reader


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "r.jsonl"
    arm = {"arm_name": "arm_0", "full_text": "#### 7", "answer": "#### 7", "reward": 1.0}
    row = {"question": "?", "gold_answer": "#### 7", "arm_outputs": [arm], "reward": 1.0, "step": 1}
    path.write_text(json.dumps(row))
    return str(path)


@pytest.mark.parametrize("program", ["score", "demo"])
def test_output_that_nobody_reads_ends_a_program(
    program: str, rows: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "argv", ["demo"])
    with os.fdopen(writer, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as ended:
            demo.main() if program == "demo" else main(["score", rows])
    assert ended.value.code == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("module", ["regime_w", "regime_w.demo"])
def test_nothing_is_said_about_it(module: str, rows: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["score", rows] if module == "regime_w" else []
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("program", ["score", "demo"])
def test_a_full_disk_is_one_line(
    program: str, rows: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo"])
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            demo.main() if program == "demo" else main(["score", rows])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: standard output: No space left on device\n"


def test_an_error_of_a_file_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), ending_with_the_reader():
        (tmp_path / "missing").read_text()
