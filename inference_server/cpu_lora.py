"""LoRA on the CPU at the speed of matrix products: a general plugin of vLLM's.

vLLM's CPU kernels (``vllm/lora/ops/torch_ops/lora_ops.py``) gather a whole A and B for every token of a
batch, layer by layer. A batch holds two or three adapters, so here its tokens are grouped by adapter, once a
step, and each group is one product with the adapter's own A and one with its B. Replaces
``vllm/lora/punica_wrapper/punica_cpu.py`` of vLLM 0.32 and computes what it computes, to rounding, but for one
thing: there a token of the base model that is in a batch with adapters has slot -1, which is the last
one, and gets that one's adapter. On a GPU vLLM has kernels of its own, and this stays away.
"""

from collections.abc import Sequence
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform


def register() -> None:
    """Entry point ``vllm.general_plugins``: vLLM calls it in each of its processes, some twice."""
    if current_platform.is_cpu():
        path = f"{GroupedPunicaWrapper.__module__}.{GroupedPunicaWrapper.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda cls: path)


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]  # vllm is untyped here
    """Adds the adapters' share to the layers' outputs, one adapter after the other.

    Only what the layers of a model on one device call is replaced; tensor parallelism's sharded layers
    go on with vLLM's own kernels.
    """

    def update_metadata(
        self,
        mapping: Any,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Takes a step's assignment of tokens to adapters; see the base class."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._token_groups = _group_rows(self.token_lora_indices)
        self._sampler_groups = _group_rows(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Sequence[torch.Tensor],
        lora_b_stacked: Sequence[torch.Tensor],
        scale: float,
        output_slices: Sequence[int],
        **kwargs: Any,
    ) -> None:
        """Adds ``scale · x Aᵀ Bᵀ`` to each slice of ``y``, by each token's own A and B.

        Args:
            y: Output of the base layer, ``[T, sum(output_slices)]``; changed in place.
            x: Input of the layer, ``[T, in]``.
            lora_a_stacked: For each slice ``[num_slots, 1, r, in]``.
            lora_b_stacked: For each slice ``[num_slots, 1, out, r]``.
            scale: Factor on the product; alpha/r is in B already.
            output_slices: Width of each slice of ``y``.
            kwargs: What other platforms' kernels take.
        """
        for slot, rows in self._token_groups:
            # The slices of one layer (query, key, value) read the same input.
            a = torch.cat([stacked[slot, 0] for stacked in lora_a_stacked])
            low_rank = _shrink(x, a, rows)
            rank, offset = lora_a_stacked[0].shape[-2], 0
            for index, (b, width) in enumerate(zip(lora_b_stacked, output_slices, strict=True)):
                part = low_rank[:, index * rank : (index + 1) * rank]
                _expand(y[:, offset : offset + width], part, b[slot, 0], scale, rows)
                offset += width

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **kwargs: Any,
    ) -> None:
        """The same for the output layer, whose rows are the sequences that sample in this step."""
        logits, hidden = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, rows in self._sampler_groups:
            low_rank = _shrink(hidden, lora_a_stacked[slot, 0], rows)
            _expand(logits, low_rank, lora_b_stacked[slot, 0], scale, rows)

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """The same for the token embedding, where ``x`` ``[T, r]`` was looked up in A already."""
        for slot, rows in self._token_groups:
            _expand(y, x if rows is None else x[rows], lora_b_stacked[slot, 0], 1.0, rows)


# The rows of one adapter; None stands for all rows of the batch.
_Group = tuple[int, torch.Tensor | None]


def _group_rows(slots: torch.Tensor) -> list[_Group]:
    """The rows that each adapter slot has in a batch; -1, the base model, has none.

    Args:
        slots: Slot of each row, ``[T]``.
    """
    present = sorted(set(slots.tolist()))
    if len(present) == 1:
        return [(present[0], None)] if present[0] >= 0 else []
    return [(slot, (slots == slot).nonzero()[:, 0]) for slot in present if slot >= 0]


def _shrink(x: torch.Tensor, a: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    # Between the two products vLLM keeps float32, whatever the dtype of the layers.
    return (x if rows is None else x[rows]).float() @ a.float().T


def _expand(
    y: torch.Tensor,
    low_rank: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    rows: torch.Tensor | None,
) -> None:
    # Base and adapter pad the output by different amounts.
    width = min(y.shape[1], b.shape[0])
    y, b = y[:, :width], b[:width].to(y.dtype)
    low_rank = low_rank.to(y.dtype)
    if rows is None:
        y.addmm_(low_rank, b.T, alpha=scale)
    else:
        y.index_add_(0, rows, low_rank @ b.T, alpha=scale)
