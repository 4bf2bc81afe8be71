"""The key-value cache of a server on a CPU: as large as its sequences need and the machine has."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.wire.hardware.cpu import (
    KV_CACHE_VARIABLE,
    available_memory_bytes,
    cpu_kv_cache_bytes,
    machine_memory_bytes,
)

GIB = 2**30


@pytest.fixture(scope="module", autouse=True)
def variable_is_unset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(KV_CACHE_VARIABLE, raising=False)
        yield


@pytest.mark.parametrize(
    ("per_token", "length", "memory_gib", "expected_bytes"),
    [
        # A tiny model: all 256 sequences at once.
        (4096, 512, 16, 256 * 576 * 4096),
        # SmolLM2 with a context of 512 tokens: 6.3 GiB would hold all, a quarter of the memory is 4.
        (46_080, 512, 16, 4 * GIB),
        (46_080, 512, 64, 256 * 576 * 46_080),
        # A long context in a small memory: one sequence, more than a quarter.
        (46_080, 32_768, 4, 32_832 * 46_080),
    ],
)
def test_the_cache_by_model_and_machine(
    per_token: int, length: int, memory_gib: float, expected_bytes: int
) -> None:
    found = cpu_kv_cache_bytes(
        bytes_per_token=per_token,
        max_model_len=length,
        memory_bytes=memory_gib * GIB,
    )
    assert found == expected_bytes


@pytest.mark.parametrize(("given", "expected"), [("3", 3 * GIB), ("", 36 * 10**6)])
def test_the_variable_of_vllm_decides_where_it_is_set(
    given: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KV_CACHE_VARIABLE, given)
    found = cpu_kv_cache_bytes(
        bytes_per_token=1000,
        max_model_len=8,
        max_num_seqs=500,
        memory_bytes=64 * GIB,
    )
    assert found == expected


@given(
    per_token=st.integers(1, 10**6),
    length=st.integers(1, 10**5),
    sequences=st.integers(1, 1000),
    memory=st.floats(1, 2**40),
)
def test_one_sequence_always_fits_and_never_more_than_all_are_paid_for(
    per_token: int, length: int, sequences: int, memory: float
) -> None:
    found = cpu_kv_cache_bytes(
        bytes_per_token=per_token,
        max_model_len=length,
        max_num_seqs=sequences,
        memory_bytes=memory,
    )
    assert length * per_token < found <= sequences * (length + 64) * per_token


def test_this_machine_has_memory() -> None:
    assert 0 < available_memory_bytes() <= machine_memory_bytes() * 4
