"""That the installed vLLM still logs the lines by which the phases of its start are known."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from inference_server.vllm.phases import PHASES

# Where each line is logged, and by which words.
LOGGED_IN = [
    ("v1/worker/gpu/model_runner.py", "Loading model from scratch"),  # on a GPU
    (
        "v1/worker/gpu_model_runner.py",
        "Starting to load model",
    ),  # for models that the other cannot run
    ("v1/worker/cpu_model_runner.py", "Starting to load model"),
    ("model_executor/model_loader/default_loader.py", "Loading weights took"),
    ("v1/core/kv_cache_utils.py", "KV cache size: %s tokens"),
]


@pytest.mark.parametrize(("file", "line"), LOGGED_IN, ids=[file for file, _ in LOGGED_IN])
def test_vllm_logs_the_line(file: str, line: str) -> None:
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    path = Path(spec.origin).parent / file
    if not path.exists():
        pytest.skip(f"this build of vLLM has no {file}")
    # At the beginning of a string, since other messages speak of the same.
    assert any(f'"{start}{line}' in path.read_text() for start in ("", "%s "))


def test_every_phase_has_such_a_line() -> None:
    assert {words for words in PHASES for _, line in LOGGED_IN if words in line} == PHASES.keys()
