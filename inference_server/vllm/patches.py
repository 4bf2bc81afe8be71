"""What is patched in vLLM 0.32, and the general plugin by which each of its processes gets the patches."""

from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import KVCacheConfig

from inference_server.concurrency import end_with_parent
from inference_server.vllm import cpu_lora, cpu_rotary, cpu_top_p, phases, worker_replies


def register() -> None:
    """Entry point ``vllm.general_plugins``; vLLM calls it in each of its processes, in some twice.

    All patches were written for vLLM 0.32. On every machine:

    - a process ends with the one that started it: an orphan would keep the device's memory;
    - a process reports the phase of its start, which vLLM tells its log alone;
    - new blocks of the KV cache are zeroed: see `zero_new_blocks`;
    - one of several workers replies that it cannot load an adapter: raising, it would put replies out of step.

    On a CPU alone:

    - LoRA is computed per adapter: vLLM's kernels gather a whole A and B for every token;
    - rotary embeddings take a tensor with heads of its own: the kernel would rotate its first rows alone;
    - top-p sorts the likeliest tokens: vLLM sorts the vocabulary.
    """
    end_with_parent()
    phases.follow()
    zero_new_blocks()
    worker_replies.install()
    if current_platform.is_cpu():
        cpu_lora.install()
        cpu_rotary.install()
        cpu_top_p.install()


def zero_new_blocks() -> None:
    """Makes vLLM zero every block of the KV cache that it allocates, so that no request reads what another left.

    Attention reads a sequence's last block whole and gives the places after its end weight 0. A block that an
    adapter filled with infinities or NaN would make the sums of the next request in it NaN, whatever its model:
    0 times NaN is NaN. vLLM zeroes new blocks itself where blocks are shared between precisions or hold states;
    here it does so always. One write of a block is little beside computing what fills it.

    On a CPU vLLM zeroes the blocks of layers with full attention, and not those of a model that has a sliding
    window in every layer.
    """
    KVCacheConfig.needs_kv_cache_zeroing = True
