"""The patches of vLLM 0.32, and the general plugin that applies them in each of its processes."""

from functools import wraps
from typing import Any

from vllm.config import SchedulerConfig
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import KVCacheConfig

from inference_server.vllm import phases, worker_replies
from inference_server.vllm.cpu import lora, rotary, top_p
from inference_server.vllm.parent import end_with_parent


def register() -> None:
    """Entry point ``vllm.general_plugins``; vLLM calls it in each of its processes, twice in some.

    All patches were written for vLLM 0.32. On every machine:

    - a process ends when its parent does: an orphan would keep the device's memory;
    - a process reports the phase of its start, which vLLM only logs;
    - new blocks of the KV cache are zeroed: see `zero_new_blocks`;
    - the outputs of several steps are sent at once where nobody waits for them;
    - one of several workers replies that it cannot load an adapter: an exception would put replies out of step.

    Only on a CPU:

    - LoRA is computed per adapter: vLLM's kernels gather a whole A and B for every token;
    - rotary embeddings take a tensor with a dimension for heads: the kernel would rotate only its first rows;
    - top-p sorts only the likeliest tokens: vLLM sorts the whole vocabulary.

    Only on an NVIDIA GPU:

    - LoRA's metadata is computed on the CPU: vLLM computes it on the GPU, and waits for it.
    """
    end_with_parent()
    phases.follow()
    zero_new_blocks()
    join_outputs()
    worker_replies.install()
    if current_platform.is_cpu():
        lora.install()
        rotary.install()
        top_p.install()
    elif current_platform.is_cuda():
        compute_lora_metadata_on_cpu()


def zero_new_blocks() -> None:
    """Makes vLLM zero every block of the KV cache that it allocates, so that no request reads what another left.

    Attention reads a sequence's last block whole and gives the positions after its end weight 0. If an adapter has
    filled a block with infinities or NaN, the sums of the next request that uses the block would be NaN, whatever
    its model: 0 times NaN is NaN. vLLM itself zeroes new blocks only if blocks are shared between precisions or
    hold states; here it always does. Writing a block once costs little compared with computing what fills it.

    On a CPU vLLM zeroes the blocks of layers with full attention, and not those of a model that has a sliding
    window in every layer.
    """
    KVCacheConfig.needs_kv_cache_zeroing = True


def join_outputs() -> None:
    """Makes every scheduler join the outputs of several steps; see `inference_server.vllm.joined_outputs`.

    The scheduler's class is changed when the engine asks for it, since other processes need not import it.
    """
    original = SchedulerConfig.get_scheduler_cls
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def get_scheduler_cls(config: SchedulerConfig) -> Any:
        from inference_server.vllm.joined_outputs import with_joined_outputs  # noqa: PLC0415

        scheduler = original(config)
        if not hasattr(scheduler.update_from_output, "__wrapped__"):
            scheduler.update_from_output = with_joined_outputs(scheduler.update_from_output)
        return scheduler

    SchedulerConfig.get_scheduler_cls = get_scheduler_cls


def compute_lora_metadata_on_cpu() -> None:
    """Makes vLLM use `inference_server.vllm.gpu_lora.AsyncPunicaWrapper`, which it imports by its name."""
    name = "inference_server.vllm.gpu_lora.AsyncPunicaWrapper"
    type(current_platform).get_punica_wrapper = classmethod(lambda cls: name)
