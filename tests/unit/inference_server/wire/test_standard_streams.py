"""A program that was started with a standard stream closed, in a process of its own."""

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

CLOSED = [streams for size in range(4) for streams in combinations(("0<&-", "1>&-", "2>&-"), size)]
PROGRAM = """
import os, sys
from inference_server.wire.standard_streams import open_standard_streams
open_standard_streams()
with open(sys.argv[1], "w") as file:
    numbers = [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)]
    print("out", flush=True)
    print("error", file=sys.stderr, flush=True)
    os.write(2, b"from a library")
    sys.stdin.read()
    file.write(f"{numbers} {file.fileno() > 2}")
"""


@pytest.mark.parametrize("streams", CLOSED, ids=" ".join)
def test_each_closed_stream_is_opened_and_no_file_gets_its_number(
    streams: tuple[str, ...], tmp_path: Path
) -> None:
    written = tmp_path / "written"
    done = with_closed(streams, [sys.executable, "-c", PROGRAM, str(written)])
    assert done.returncode == 0
    assert written.read_text() == "[0, 1, 2] True"
    assert done.stdout == ("" if "1>&-" in streams else "out\n")
    assert done.stderr == ("" if "2>&-" in streams else "error\nfrom a library")


@pytest.mark.parametrize("program", ["trainer", "inference_server"])
def test_both_programs_run_without_standard_streams(program: str) -> None:
    command = [sys.executable, "-m", program, "--version"]
    assert with_closed(CLOSED[-1], command).returncode == 0


def with_closed(streams: tuple[str, ...], command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command from a shell that has closed these streams."""
    shell = ["sh", "-c", f'exec "$@" {" ".join(streams)}', "sh", *command]
    return subprocess.run(
        shell, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
