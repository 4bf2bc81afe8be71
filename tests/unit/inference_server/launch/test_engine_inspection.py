"""What a fork of a real fork server computes, and what happens where it fails, hangs or cannot be."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, multiprocessing, os, signal, sys, time
from inference_server.launch import engine_process
from inference_server.launch.engine_imports import EngineImports
from inference_server.launch.engine_inspection import in_fork

def by_vllm(function):
    return "by vllm"

def where():
    return os.getppid(), os.environ["LATE"], "imported_early" in sys.modules

def fail():
    raise ValueError("this model cannot be inspected")

def leave():
    os._exit(1)

def wait_for_ever():
    time.sleep(1e6)

def stop_the_server():
    os.kill(int(os.environ["SERVER"]), signal.SIGTERM)
    time.sleep(1e6)


if __name__ == "__main__":
    EngineImports.start({}, ["imported_early"])
    os.environ |= {"LATE": "set later", "SERVER": str(os.getpid())}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    run = in_fork(by_vllm)
    where_it_ran = run(lambda: where())
    found = {
        "where": where_it_ran,
        "fork_server": engine_process.fork_server_pid(),
        "failing": run(fail),
        "leaving": run(leave),
        "unpicklable": run(lambda: lambda: None),
        "hanging": in_fork(by_vllm, timeout_s=0.1)(wait_for_ever),
        "left": len(multiprocessing.active_children()),
    }
    try:
        run(stop_the_server)
    except SystemExit as stop:
        found["stopped"] = [stop.code, len(multiprocessing.active_children())]
    engine_process.end_fork_server()
    while engine_process.fork_server_pid() is not None:
        time.sleep(0.01)
    found["without"] = run(where)
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("cloudpickle")
    folder: Path = tmp_path_factory.mktemp("inspection")
    # In place of vLLM, which takes long to import.
    (folder / "imported_early.py").write_text("import vllm.plugins\n")
    (folder / "vllm").mkdir()
    (folder / "vllm" / "__init__.py").touch()
    (folder / "vllm" / "plugins.py").write_text("def load_general_plugins():\n    pass\n")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return {**found, "log": result.stdout}


def test_a_function_runs_in_a_fork_with_todays_environment(ran: dict[str, Any]) -> None:
    assert ran["where"] == [ran["fork_server"], "set later", True]


@pytest.mark.parametrize("how", ["failing", "leaving", "unpicklable", "hanging", "without"])
def test_vllm_inspects_where_the_fork_does_not(ran: dict[str, Any], how: str) -> None:
    assert ran[how] == "by vllm"


def test_the_log_has_the_reason(ran: dict[str, Any]) -> None:
    lines = [line for line in ran["log"].splitlines() if "inspection_not_forked" in line]
    assert len(lines) == 4
    assert "no result within 0.1 s" in lines[-1]
    assert "this model cannot be inspected" in ran["log"]


def test_no_process_is_left_also_after_a_signal(ran: dict[str, Any]) -> None:
    assert ran["left"] == 0
    assert ran["stopped"] == [5, 0]


def test_vllm_has_the_function_and_calls_it_in_every_inspection() -> None:
    registry = pytest.importorskip("vllm.model_executor.models.registry")
    assert callable(registry._run_in_subprocess)
    code = registry._LazyRegisteredModel.inspect_model_cls.__wrapped__.__code__
    assert "_run_in_subprocess" in code.co_names
