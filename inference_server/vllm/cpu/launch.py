"""Settles vLLM's parsed arguments for a CPU: what the model's layers need, and the size of the cache."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from inference_server.wire.flags.reading import given_flags
from inference_server.wire.hardware import model_config
from inference_server.wire.hardware.cpu import (
    KV_CACHE_VARIABLE,
    available_memory_bytes,
    cpu_kv_cache_bytes,
    machine_memory_bytes,
)
from inference_server.wire.settings.errors import SettingsError

_KV_CACHE_GIB_OF_UNKNOWN_MODEL = "1"


def adjust_for_cpu(
    args: argparse.Namespace, config: Mapping[str, Any], given: Sequence[str]
) -> None:
    """Refuse what a CPU cannot serve, and set dtype, prefix caching and key-value cache unless the user did.

    Args:
        args: vLLM's parsed arguments; changed in place.
        config: The content of the model's config.json.
        given: The user's flags.

    Raises:
        SettingsError: A flag works only on a GPU.
    """
    if args.fully_sharded_loras:
        raise SettingsError("--fully-sharded-loras: works only on a GPU; leave it out")
    names = given_flags(given)
    if model_config.carries_state(config):
        if not {"--enable-prefix-caching", "--no-enable-prefix-caching"} & names:
            # The prefix cache keeps states at the ends of chunks, and chunked prefill with a seed kills the engine: see
            # `CPU_FLAGS`.
            args.enable_prefix_caching = False
        if model_config.DELTA_NET in model_config.layer_types(config) and "--dtype" not in names:
            # The only dtype that vLLM's CPU kernels for the delta rule take.
            args.dtype = "bfloat16"
    _size_kv_cache(args, config)


def num_workers(args: argparse.Namespace) -> int:
    """Number of processes on this machine that hold a part of the model or a replica."""
    parallel = (args.tensor_parallel_size, args.pipeline_parallel_size, args.data_parallel_size)
    return max(1, math.prod(map(int, parallel)))


def _size_kv_cache(args: argparse.Namespace, config: Mapping[str, Any]) -> None:
    """Sizes the cache for the model and the machine unless the user did; vLLM would take half the memory."""
    bytes_per_number = 4 if args.dtype in ("float32", "float") else 2
    attention = model_config.AttentionLayers.of(config)
    length = args.max_model_len or model_config.context_tokens(config)
    if args.kv_cache_memory_bytes is not None or os.environ.get(KV_CACHE_VARIABLE):
        return
    if attention is None or not isinstance(length, int) or length < 1:
        os.environ[KV_CACHE_VARIABLE] = _KV_CACHE_GIB_OF_UNKNOWN_MODEL
        return
    args.kv_cache_memory_bytes = cpu_kv_cache_bytes(
        bytes_per_token=attention.kv_bytes_per_token(
            bytes_per_number=bytes_per_number,
            # vLLM refuses an impossible number of workers later.
            tensor_parallel_size=max(1, args.tensor_parallel_size),
        ),
        state_bytes=model_config.state_bytes_per_sequence(
            config, bytes_per_number=bytes_per_number
        ),
        max_model_len=length,
        max_num_seqs=args.max_num_seqs,
        # The cache takes up to a quarter of this, so at most half of what is available on a machine in use: vLLM
        # does not start with more than there is.
        memory_bytes=min(machine_memory_bytes(), 2 * available_memory_bytes()) // num_workers(args),
    )
