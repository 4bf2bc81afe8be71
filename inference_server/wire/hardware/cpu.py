"""The memory of a machine without a GPU, and how much of it the server's key-value cache takes.

The server sizes its cache with this module, and the trainer's doctor plans with it. Loads neither torch nor vllm.
"""

import os
from pathlib import Path

CPU_MAX_NUM_SEQS = 256
"""Sequences that run at a time on a CPU: twice vLLM's default for a server, since a step costs little more
with twice as many."""

CPU_MAX_BATCHED_TOKENS = 8192
"""Most tokens in a forward pass: prompts are not cut into chunks, so each must fit."""

KV_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's variable for the cache's size, in whole GiB; if it is set, it decides."""

_GIB = 2**30
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Share of the memory for the cache; the rest is for weights, the trainer, and whatever else the machine does.
_LARGEST_SHARE = 0.25
# Tokens in a block. vLLM keeps one block for itself, and a sequence's last block may be only partly filled.
_BLOCK_TOKENS = 32


def machine_memory_bytes() -> float:
    """Memory of this machine, or the container's limit where that is less."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUP_LIMITS:
        try:
            limit = Path(path).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            sizes.append(int(limit))
    return float(min(sizes))


def available_memory_bytes() -> float:
    """Memory that new processes may take without making this machine swap."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def cpu_kv_cache_bytes(
    *,
    bytes_per_token: int,
    state_bytes: int = 0,
    max_model_len: int,
    memory_bytes: float,
    max_num_seqs: int = CPU_MAX_NUM_SEQS,
) -> int:
    """Size of the cache: room for all sequences that run at a time, at most a quarter of the memory.

    One sequence of the full length always has room, since vLLM does not start without it.

    Args:
        bytes_per_token: See `inference_server.wire.hardware.model_config.AttentionLayers.kv_bytes_per_token`.
        state_bytes: See `inference_server.wire.hardware.model_config.state_bytes_per_sequence`.
        max_model_len: Longest prompt and completion together, in tokens.
        memory_bytes: The machine's memory.
        max_num_seqs: Most sequences that run at a time.
    """
    given = os.environ.get(KV_CACHE_VARIABLE, "")
    if given.isdigit():
        return int(given) * _GIB
    longest = (max_model_len + 2 * _BLOCK_TOKENS) * bytes_per_token + state_bytes
    return max(longest, min(max_num_seqs * longest, int(_LARGEST_SHARE * memory_bytes)))
