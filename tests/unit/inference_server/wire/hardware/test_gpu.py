"""How the server runs on a GPU, without one."""

from itertools import pairwise

import pytest

from inference_server.wire.hardware import gpu
from inference_server.wire.settings.serve import ServeConfig


@pytest.mark.parametrize("max_num_seqs", [1, 3, 100, 256, 500, 512, 1024])
def test_captured_sizes_reach_every_batch_with_little_padding(max_num_seqs: int) -> None:
    sizes = gpu.capture_sizes(max_num_seqs)
    assert sizes[0] == 1
    assert sizes[-1] == max_num_seqs
    assert all(after <= 2 * before for before, after in pairwise(sizes))
    assert all(after <= 1.5 * before for before, after in pairwise(sizes) if before >= 32)
    # vLLM's own are 51 up to 512.
    assert len(sizes) <= 9 + max_num_seqs / 64


def test_a_batch_is_the_settings() -> None:
    assert gpu.flags(ServeConfig())["--max-num-seqs"] == "512"
    assert gpu.flags(ServeConfig(max_num_seqs=64))["--max-num-seqs"] == "64"


@pytest.mark.parametrize("dtype", ["auto", "half", "float16", "bfloat16"])
def test_16_bits_are_served(dtype: str) -> None:
    assert gpu.refusal(dtype) is None


@pytest.mark.parametrize("dtype", ["float32", "float"])
def test_32_bits_are_refused_with_the_reason(dtype: str) -> None:
    reason = gpu.refusal(dtype)
    assert reason is not None
    assert reason.startswith(f"--dtype {dtype}: ")
    assert "float16 and bfloat16 only" in reason
