"""A run goes on when nobody reads its output; each test uses a separate process, which loses its output."""

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trainer.console.terminal import CONSOLE_FILE, print_line

PROGRAM = """
import fcntl, signal, sys, termios, time
from pathlib import Path
from rich.console import Console
from trainer.console.terminal import lasting_output

folder = Path(sys.argv[1])
if sys.stdin.isatty():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # as a shell's child has it
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
with lasting_output(folder / "console.log"):
    console = Console()
    print("ready", file=sys.stderr)
    console.print("ready")
    while not (folder / "go").exists():
        time.sleep(0.01)
    for n in range(3):
        console.print(f"line {n}", highlight=False)
    print("error line", file=sys.stderr)
(folder / "done").touch()
"""


def start(folder: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), *words]
    return subprocess.Popen(command, text=True, **options)


def wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_reader_that_ends_takes_nothing_with_it(tmp_path: Path) -> None:
    process = start(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    (tmp_path / "go").touch()
    # What still has a reader stays where it is.
    assert process.stderr.read() == "ready\nerror line\n"
    process.stderr.close()
    assert process.wait(300) == 0
    assert (tmp_path / CONSOLE_FILE).read_text() == "line 0\nline 1\nline 2\n"


@pytest.mark.parametrize("words", [(), ("nohup",)], ids=["shell", "nohup"])
def test_a_terminal_that_is_closed_takes_nothing_with_it(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    terminal, inner = pty.openpty()
    process = start(
        tmp_path, *words, stdin=inner, stdout=inner, stderr=inner, start_new_session=True
    )
    os.close(inner)
    said = b""
    while said.count(b"ready") < 2:
        said += os.read(terminal, 1000)
    os.close(terminal)
    (tmp_path / "go").touch()
    assert process.wait(300) == 0
    assert (tmp_path / "done").exists()
    lines = (tmp_path / CONSOLE_FILE).read_text().splitlines()
    assert lines == ["line 0", "line 1", "line 2", "error line"]


def test_where_even_the_file_cannot_be_written_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / CONSOLE_FILE).mkdir()
    process = start(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    (tmp_path / "go").touch()
    assert process.wait(300) == 0
    wait_for(tmp_path / "done")


def test_a_path_that_is_longer_than_the_terminal_is_not_broken() -> None:
    path = "/a/path-of-many/" + 40 * "x"
    out = io.StringIO()
    print_line(
        Console(file=out, width=20, force_terminal=True), f"a report [of 3] in {path}, step    7"
    )
    assert out.getvalue().splitlines() == ["a report [of 3] in", f"{path},", "step    7"]


def test_a_path_keeps_what_rich_would_read_as_an_emoji() -> None:
    out = io.StringIO()
    print_line(Console(file=out), "adapter in runs/:x:/a")
    assert out.getvalue() == "adapter in runs/:x:/a\n"
