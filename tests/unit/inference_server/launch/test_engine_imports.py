"""Processes that a fork server makes, and what happens where it cannot; with modules that are quick to import."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference_server.launch.engine_imports import EngineImports

SCRIPT = """
import atexit, json, multiprocessing, os, resource, signal, sys, weakref
from inference_server.launch.engine_imports import EngineImports

STOPS = (signal.SIGINT, signal.SIGTERM)

class Kept:
    pass

KEPT = Kept()

def report(path):
    atexit.register(lambda: open(path + ".exit", "w").close())
    weakref.finalize(KEPT, lambda: open(path + ".finalized", "w").close())
    state = {name: os.environ.get(name) for name in ("EARLY", "LATE", "GONE")}
    state["parent"] = os.getppid()
    state["open_files"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    state["handles_stops"] = [signal.getsignal(stop) is not signal.SIG_IGN for stop in STOPS]
    state["was_imported"] = "imported_early" in sys.modules
    state["seen_while_imported"] = getattr(sys.modules.get("imported_early"), "SEEN", None)
    state["threads"] = getattr(sys.modules.get("torch"), "get_num_threads", int)()
    with open(path, "w") as file:
        json.dump(state, file)
    sys.exit(3)

if __name__ == "__main__":
    os.environ["GONE"] = "here"
    imports = EngineImports.start({"EARLY": "known"}, [sys.argv[1]])
    assert "EARLY" not in os.environ
    del os.environ["GONE"]
    os.environ |= {"EARLY": sys.argv[2], "LATE": "set later", **json.loads(sys.argv[4])}
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    context = imports.context(multiprocessing.get_context("spawn"))
    process = context.Process(target=report, args=(sys.argv[3],))
    process.start()
    process.join()
    print(json.dumps({"pid": os.getpid(), "exit_code": process.exitcode}))
"""

IMPORTED = """
import os, signal
SEEN = os.environ.get("EARLY")
for stop in (signal.SIGINT, signal.SIGTERM):
    signal.signal(stop, signal.SIG_IGN)
"""


def run(
    folder: Path,
    *,
    early: str = "known",
    module: str = "imported_early",
    now: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What the process that was started saw, and the id of the process that started it."""
    (folder / "imported_early.py").write_text(IMPORTED)
    (folder / "ends_at_once.py").write_text("import sys\nsys.exit('no fork server')\n")
    script, answer = folder / "script.py", folder / "answer.json"
    # Found first by a program that looks in the current folder, unlike the script.
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "imported_early.py").write_text("SEEN = 'another module of this name'\n")
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, str(script), module, early, str(answer), json.dumps(now or {})],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    state: dict[str, Any] = json.loads(answer.read_text())
    started = json.loads(result.stdout.splitlines()[-1])
    assert started["exit_code"] == 3
    assert answer.with_suffix(".json.exit").exists()
    assert answer.with_suffix(".json.finalized").exists()
    return {**state, "starter": started["pid"], "log": result.stdout + result.stderr}


def test_a_process_has_the_modules_of_the_fork_server_and_todays_environment(
    tmp_path: Path,
) -> None:
    state = run(tmp_path)
    assert state["was_imported"]
    assert state["seen_while_imported"] == "known"
    assert (state["EARLY"], state["LATE"], state["GONE"]) == ("known", "set later", None)
    assert state["handles_stops"] == [True, True]
    assert state["open_files"] == 300
    assert state["parent"] != state["starter"]
    assert "engine_not_forked" not in state["log"]


@pytest.mark.parametrize("threads", ["0", "-1", "99999999999", "two"])
def test_an_invalid_number_of_threads_is_left_to_the_libraries(
    tmp_path: Path, threads: str
) -> None:
    assert run(tmp_path, now={"OMP_NUM_THREADS": threads})["was_imported"]


def test_pytorch_uses_the_number_of_threads_that_is_set_at_the_start(tmp_path: Path) -> None:
    state = run(tmp_path, module="torch", now={"OMP_NUM_THREADS": "3"})
    assert state["threads"] == 3
    assert state["parent"] != state["starter"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"early": "otherwise"}, "EARLY"),
        ({"now": {"LD_PRELOAD": ""}}, "LD_PRELOAD"),
        ({"now": {"VLLM_USE_BREAKABLE_CUDAGRAPH": "1"}}, "VLLM_USE_BREAKABLE_CUDAGRAPH"),
        ({"module": "ends_at_once"}, "the fork server"),
    ],
    ids=["imported with another environment", "other libraries", "read by modules", "ended"],
)
def test_a_process_imports_itself_if_the_fork_server_does_not_fit(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    state = run(tmp_path, **changes)
    assert not state["was_imported"]
    assert state["parent"] == state["starter"]
    assert state["EARLY"] == changes.get("early", "known")
    assert state["LATE"] == "set later"
    (line,) = [line for line in state["log"].splitlines() if "engine_not_forked" in line]
    assert reason in line


def test_a_module_that_changes_the_path_of_libraries_for_later_programs_is_no_reason(
    tmp_path: Path,
) -> None:
    # As OpenCV does, which vLLM's build for a GPU imports.
    state = run(
        tmp_path, now={"LD_LIBRARY_PATH": f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    )
    assert state["was_imported"]
    assert "engine_not_forked" not in state["log"]


@pytest.mark.parametrize("value", ["1", " True "])
def test_cudas_compatibility_libraries_are_only_found_by_a_program_that_starts_anew(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_CUDA_COMPATIBILITY", value)
    assert EngineImports.start({}, ["string"]) is None


def test_a_folder_for_temporary_files_without_room_for_a_socket_is_no_error(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    code = (
        "from inference_server.launch.engine_imports import EngineImports\n"
        "print(EngineImports.start({}, ['string']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(deep)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.splitlines()[-1] == "None", result.stderr
    assert "no fork server" in result.stdout


@pytest.mark.parametrize(
    ("now", "fits"),
    [
        ({"A": "1"}, True),
        ({"A": "1", "B": "2"}, True),
        ({}, False),
        ({"A": ""}, False),
        ({"A": "2"}, False),
    ],
)
def test_the_environment_of_the_imports_must_not_have_changed(
    monkeypatch: pytest.MonkeyPatch, now: dict[str, str], fits: bool
) -> None:
    for name in ("A", "B"):
        monkeypatch.delenv(name, raising=False)
    for name, value in now.items():
        monkeypatch.setenv(name, value)
    vllms_own = object()
    assert (EngineImports({"A": "1"}).context(vllms_own) is not vllms_own) == fits


FORKS = """
import ctypes, sys
from inference_server.launch.engine_process import forks_can_use_cuda

class Driver:
    def __init__(self, name):
        if sys.argv[1] == "missing":
            raise OSError(name)
    def cuInit(self, flags):
        return int(sys.argv[1])

ctypes.CDLL = Driver
print(forks_can_use_cuda())
"""


@pytest.mark.parametrize(
    ("result", "expected"), [("0", "True"), ("3", "False"), ("999", "False"), ("missing", "True")]
)
def test_whether_a_fork_can_use_cuda_is_tried_in_one(result: str, expected: str) -> None:
    command = [sys.executable, "-c", FORKS, result]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"{expected}\n"


OUTLIVES = """
import multiprocessing, os, signal, time
from pathlib import Path
from inference_server.launch import engine_process
from inference_server.launch.engine_imports import EngineImports

def work(path):
    while not Path(path).exists():
        time.sleep(0.01)
    raise SystemExit(3)

if __name__ == "__main__":
    context = EngineImports.start({}, []).context(multiprocessing.get_context("spawn"))
    first, second = (
        context.Process(target=work, args=(path,), daemon=True) for path in ("first", "second")
    )
    first.start()
    second.start()
    Path("first").touch()
    first.join()
    assert first.exitcode == 3
    os.kill(engine_process.fork_server_pid(), signal.SIGKILL)
    while engine_process.fork_server_pid() is not None:
        time.sleep(0.01)
    assert second.is_alive()
    Path("second").touch()
    second.join()
    assert second.exitcode == 255
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no descriptors of processes")
def test_the_end_of_the_fork_server_is_not_taken_for_the_end_of_its_processes(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"
    script.write_text(OUTLIVES)
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
