"""Zeroed blocks of the KV cache, so that no request reads what an earlier one left.

Attention reads a sequence's last block whole and gives the places after its end weight 0. A block that an
adapter filled with infinities or NaN would make the sums of the next request in it NaN, whatever its model:
0 times NaN is NaN. vLLM 0.32 zeroes new blocks itself where blocks are shared between precisions or hold
states; here it does so always. One write of a block is little beside computing what fills it.

On a CPU vLLM zeroes the blocks of layers with full attention, and not those of a model that has a sliding
window in every layer.
"""

from vllm.v1.kv_cache_interface import KVCacheConfig


def install() -> None:
    """Makes vLLM zero every block that it allocates, in the process that calls this."""
    KVCacheConfig.needs_kv_cache_zeroing = True
