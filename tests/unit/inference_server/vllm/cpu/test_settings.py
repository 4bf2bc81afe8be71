"""Threads of vLLM's workers on a CPU."""

import os

import pytest

from inference_server.vllm.cpu.settings import cpu_environment


@pytest.mark.parametrize(
    ("num_cores", "num_workers", "expected"),
    [
        (2, 1, "0-1"),
        (8, 2, "0-3|4-7"),
        (8, 3, "0-1|2-3|4-5"),
        (2, 4, "0-0|1-1|0-0|1-1"),  # more workers than cores share them
    ],
)
def test_workers_share_the_cores(
    num_cores: int, num_workers: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: num_cores)
    found = cpu_environment(2048, num_workers=num_workers)
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == expected


def test_a_small_model_has_one_thread_a_worker() -> None:
    found = cpu_environment(64, num_workers=2)
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert found["OMP_NUM_THREADS"] == "1"
