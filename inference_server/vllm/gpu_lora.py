"""LoRA's metadata on a GPU, computed on the CPU so that nothing waits for the GPU.

Whenever a batch changes, such as when a completion ends, vLLM 0.32 sorts and counts its tokens by adapter on the GPU and
reads the results back, several times (``punica_gpu.py``: "TODO avoid gpu<->cpu sync here"). Each read waits until the
GPU has finished the step before, and the GPU then waits for the next one. What is sorted is known on the CPU, and is a
few hundred numbers in a step of generation.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU
from vllm.utils.torch_utils import async_tensor_h2d


class AsyncPunicaWrapper(PunicaWrapperGPU):  # type: ignore[misc]  # vllm is untyped here
    """vLLM's wrapper, with the same metadata."""

    def update_metadata(
        self,
        mapping: Any,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Sets a step's assignment of tokens and of sampled rows to adapters; see the base class."""
        self.is_prefill = mapping.is_prefill
        self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
        for metadata, ids in (
            (self.token_mapping_meta, mapping.index_mapping),
            (self.prompt_mapping_meta, mapping.prompt_mapping),
        ):
            set_metadata(metadata, slots_of(ids, lora_index_to_id))


def slots_of(ids: Sequence[int], lora_index_to_id: list[int | None]) -> NDArray[np.int16]:
    """The slot of each id of an adapter, -1 for the base model (id 0)."""
    slots = {adapter: slot for slot, adapter in enumerate(lora_index_to_id) if adapter is not None}
    return np.array([slots[adapter] if adapter > 0 else -1 for adapter in ids], dtype=np.int16)


def set_metadata(metadata: LoRAKernelMeta, slots: NDArray[np.int16]) -> None:
    """Does what `LoRAKernelMeta.prepare_tensors` does, with ``slots`` on the CPU.

    Args:
        metadata: Changed in place.
        slots: Of each token, ``[T]``; -1 for none.
    """
    metadata._reset()
    if (slots == -1).all():
        metadata.no_lora_flag_cpu[0] = True
        return
    counts = np.bincount(slots + 1)
    (used,) = counts.nonzero()
    num_tokens = counts[used]
    parts: dict[str, NDArray[Any]] = {
        "token_lora_mapping": slots,
        "token_indices_sorted_by_lora_ids": np.argsort(slots, kind="stable"),
        "active_lora_ids": used - 1,
        "num_tokens_per_lora": num_tokens,
        "lora_token_start_loc": np.concatenate([[0], num_tokens.cumsum()]),
    }
    # One copy for all; those on the GPU follow in its order.
    device = metadata.token_lora_mapping.device
    copied = async_tensor_h2d(np.concatenate([*parts.values()]).astype(np.int32), device)
    lengths = [len(part) for part in parts.values()]
    for name, values in zip(parts, copied.split(lengths), strict=True):
        getattr(metadata, name)[: len(values)].copy_(values, non_blocking=True)
    metadata.num_active_loras_cpu[0] = _captured(len(used), metadata.captured_lora_counts)


def _captured(number: int, captured: list[int]) -> int:
    """The number of adapters for which a CUDA graph was captured: the next larger one if there is any."""
    index = bisect_left(captured, number)
    return captured[index] if index < len(captured) else number
