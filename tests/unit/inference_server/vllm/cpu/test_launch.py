"""What the server chooses for vLLM on a CPU, depending on the model's layers, the user's flags and the machine."""

import os
from argparse import Namespace
from typing import Any

import pytest

from inference_server.vllm.cpu.launch import adjust_for_cpu, num_workers
from inference_server.wire.hardware.cpu import KV_CACHE_VARIABLE
from inference_server.wire.settings.errors import SettingsError

PLAIN = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "max_position_embeddings": 1024,
}
CONVOLUTIONS = PLAIN | {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
DELTA_RULE = PLAIN | {"layer_types": ["linear_attention", "full_attention"]}


def arguments(**changes: object) -> Namespace:
    """vLLM's parsed arguments, as far as our code reads them."""
    values: dict[str, object] = {
        "dtype": "float32",
        "enable_prefix_caching": True,
        "fully_sharded_loras": False,
        "kv_cache_memory_bytes": None,
        "max_model_len": None,
        "max_num_seqs": 256,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
    }
    return Namespace(**{**values, **changes})


@pytest.fixture(autouse=True)
def without_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clears the variable, which a test may set in this process."""
    monkeypatch.setenv(KV_CACHE_VARIABLE, "")


@pytest.mark.parametrize(
    ("config", "given", "dtype", "caches_prefixes"),
    [
        (PLAIN, (), "float32", True),
        (CONVOLUTIONS, (), "float32", False),
        (CONVOLUTIONS, ("--enable-prefix-caching",), "float32", True),
        (CONVOLUTIONS, ("--enable_prefix_caching",), "float32", True),
        (DELTA_RULE, (), "bfloat16", False),
        (DELTA_RULE, ("--dtype=float32",), "float32", False),
    ],
)
def test_layers_with_a_state_need_no_prefix_cache_and_the_delta_rule_16_bits(
    config: dict[str, Any], given: tuple[str, ...], dtype: str, caches_prefixes: bool
) -> None:
    args = arguments()
    adjust_for_cpu(args, config, given)
    assert (args.dtype, args.enable_prefix_caching) == (dtype, caches_prefixes)


def test_the_cache_is_sized_by_the_model_unless_the_user_did() -> None:
    args = arguments(max_model_len=448, max_num_seqs=2)
    adjust_for_cpu(args, PLAIN, ())
    # Two layers' keys and values of 64 numbers in float32, for 448 tokens and two blocks.
    assert args.kv_cache_memory_bytes == 2 * 512 * (2 * 2 * 64 * 4)
    given = arguments(kv_cache_memory_bytes=5)
    adjust_for_cpu(given, PLAIN, ())
    assert given.kv_cache_memory_bytes == 5
    assert not os.environ[KV_CACHE_VARIABLE]


def test_a_model_of_unknown_shape_has_a_cache_of_one_gib() -> None:
    args = arguments()
    adjust_for_cpu(args, {"max_position_embeddings": 512}, ())
    assert args.kv_cache_memory_bytes is None
    assert os.environ[KV_CACHE_VARIABLE] == "1"


def test_what_works_on_a_gpu_alone_is_refused() -> None:
    with pytest.raises(SettingsError, match="--fully-sharded-loras"):
        adjust_for_cpu(arguments(fully_sharded_loras=True), PLAIN, ())


@pytest.mark.parametrize(("sizes", "workers"), [((1, 1, 1), 1), ((2, 1, 3), 6), ((0, 1, 1), 1)])
def test_workers_are_parts_times_replicas(sizes: tuple[int, int, int], workers: int) -> None:
    tensor, pipeline, data = sizes
    args = arguments(
        tensor_parallel_size=tensor, pipeline_parallel_size=pipeline, data_parallel_size=data
    )
    assert num_workers(args) == workers
