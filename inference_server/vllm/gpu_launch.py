"""Settles vLLM's parsed arguments for a GPU: CUDA graphs, the size of the cache, and what is refused."""

import argparse
from collections.abc import Sequence
from typing import Any

import structlog
import torch
import transformers
from vllm.platforms import current_platform

from inference_server.settings import Settings
from inference_server.wire.flags.reading import given_flags
from inference_server.wire.hardware import gpu
from inference_server.wire.hardware.gpu import ServedModel, linear_modules
from inference_server.wire.hardware.model_config import (
    AttentionLayers,
    SlidingLayers,
    context_tokens,
)
from inference_server.wire.settings.errors import SettingsError

_HALF = 2
_log = structlog.get_logger()
_GRAPH_FLAGS = frozenset(
    {
        *("--compilation-config", "-cc", "-O", "--optimization-level", "--enforce-eager"),
        *("--cudagraph-capture-sizes", "--max-cudagraph-capture-size"),
    }
)
"""Flags with which the user chooses the CUDA graphs."""
_SHARDING = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def adjust_for_gpu(args: argparse.Namespace, settings: Settings, given: Sequence[str]) -> None:
    """Refuse what cannot be served, and set CUDA graphs and key-value cache unless the user did.

    The cache gets what the memory plan leaves of the card's share ``gpu_memory_utilization``. vLLM would measure
    instead, and mistake memory that another process takes or frees meanwhile for its own.

    Args:
        args: vLLM's parsed arguments; changed in place.
        settings: The server's.
        given: The user's flags.

    Raises:
        SettingsError: The dtype cannot be served with LoRA, or the cache would not hold one sequence.
    """
    if (reason := gpu.refusal(args.dtype)) is not None:
        raise SettingsError(reason)
    names = given_flags(given)
    if not any(name.startswith(tuple(_GRAPH_FLAGS)) for name in names if name.startswith("-")):
        args.cudagraph_capture_sizes = gpu.capture_sizes(args.max_num_seqs)
    is_given = settings.gpu_memory_utilization is not None or "--gpu-memory-utilization" in names
    if is_given and gpu.KV_CACHE_FLAG not in names:
        _size_kv_cache(args, settings)


def _size_kv_cache(args: argparse.Namespace, settings: Settings) -> None:
    config = transformers.AutoConfig.from_pretrained(args.model, revision=args.revision)
    written = config.to_dict()
    attention = AttentionLayers.of(written)
    sizes = (getattr(config, name, None) for name in ("hidden_size", "intermediate_size"))
    if not _is_plain(args, config) or attention is None or None in sizes:
        return
    per_token = attention.kv_bytes_per_token(bytes_per_number=_HALF)
    parts = gpu.memory_parts(
        _counted(config),
        max_lora_rank=settings.max_lora_rank,
        max_loaded_versions=settings.max_loaded_versions,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
    )
    card = current_platform.get_device_total_memory()
    left = int(args.gpu_memory_utilization * card - sum(parts.values()))
    length = args.max_model_len or context_tokens(written)
    needed = SlidingLayers.of(written).cached_tokens(
        length, max_num_batched_tokens=args.max_num_batched_tokens
    )
    if left < per_token * needed:
        # vLLM would say so after a minute, and end in a way that looks like a crash.
        raise SettingsError(
            f"serve.gpu_memory_utilization {args.gpu_memory_utilization:g} leaves a cache of "
            f"{max(0, left) // per_token:,} tokens, and one sequence of serve.max_model_len takes {needed:,}: "
            "lower serve.max_model_len, or raise the share"
        )
    args.kv_cache_memory_bytes = left
    # Only a check at vLLM's start still reads this.
    args.gpu_memory_utilization *= gpu.START_SHARE
    _log.info("kv_cache", bytes=left, tokens=left // per_token)


def _is_plain(args: argparse.Namespace, config: Any) -> bool:
    """Whether the plan knows the model's memory: one GPU, and weights and cache in 16 bits."""
    one_gpu = all(getattr(args, name, 1) in (None, 1) for name in _SHARDING)
    in_16_bits = args.quantization is None and not getattr(config, "quantization_config", None)
    return one_gpu and in_16_bits and args.kv_cache_dtype == "auto"


def _counted(config: Any) -> ServedModel:
    """A model's sizes, counted on the model itself, which is built without weights."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return ServedModel.of(model, linear_modules(model, torch.nn.Linear))
