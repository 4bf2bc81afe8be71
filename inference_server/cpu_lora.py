"""LoRA on the CPU at the speed of matrix products: a general plugin of vLLM's.

vLLM's CPU kernels (``vllm/lora/ops/torch_ops/lora_ops.py``) gather a whole A and B for every token of a
batch, layer by layer. A batch holds two or three adapters, so here their matrices stand side by side:
one product with all A of a layer, zeros where a token has another adapter, one product with all B. Replaces
``vllm/lora/punica_wrapper/punica_cpu.py`` of vLLM 0.32 and computes what it computes, to rounding, but for one
thing: there a token of the base model that is in a batch with adapters has slot -1, which is the last
one, and gets that one's adapter. On a GPU vLLM has kernels of its own, and this stays away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform


def register() -> None:
    """Entry point ``vllm.general_plugins``: vLLM calls it in each of its processes, some twice."""
    if current_platform.is_cpu():
        path = f"{GroupedPunicaWrapper.__module__}.{GroupedPunicaWrapper.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda cls: path)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Assignment:
    """Which adapters the rows of a batch have."""

    slots: Sequence[int]
    """The ``n`` slots that occur; empty where all rows are the base model's."""
    others: torch.Tensor | None
    """Where a row does not have the slot, ``[T, n]``; None where every row has the only one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pairs:
    """A layer's A and B of ``n`` adapters and all slices of its output."""

    stacked_a: torch.Tensor
    """Kept, so that no other layer's tensor gets its id."""
    slots: Sequence[int]
    written: Sequence[int]
    a: torch.Tensor
    """``[slices · n · r, in]`` in float32."""
    b: Sequence[torch.Tensor]
    """Of each slice ``[out, n · r]``."""


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]  # vllm is untyped here
    """Adds the adapters' share to the layers' outputs, all adapters of a batch at once.

    Only what the layers of a model on one device call is replaced; tensor parallelism's sharded layers
    go on with vLLM's own kernels.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As the base class; see there."""
        super().__init__(*args, **kwargs)
        self._pairs_of_layer: dict[int, _Pairs] = {}

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
        self._tokens = _assign(self.token_lora_indices)
        self._samples = _assign(self.sampler_indices)

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
        if self._tokens.slots:
            self._add(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, self._tokens)

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
        if self._samples.slots:
            # Base and adapter pad the vocabulary by different amounts.
            width = min(logits.shape[1], lora_b_stacked.shape[-2])
            a, b = (lora_a_stacked,), (lora_b_stacked[..., :width, :],)
            self._add(logits, hidden, a, b, scale, (width,), self._samples)

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """The same for the token embedding, where ``x`` ``[T, r]`` was looked up in A already."""
        if self._tokens.slots:
            low_rank = x[:, None, None].repeat(1, 1, len(self._tokens.slots), 1)
            _mask(low_rank, self._tokens)
            _expand(y, low_rank[:, 0], _all_b(lora_b_stacked, self._tokens.slots), 1.0)

    def _add(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Sequence[torch.Tensor],
        lora_b_stacked: Sequence[torch.Tensor],
        scale: float,
        widths: Sequence[int],
        rows: _Assignment,
    ) -> None:
        pairs = self._pairs(lora_a_stacked, lora_b_stacked, rows.slots)
        # Between the two products vLLM keeps float32, whatever the dtype of the layers.
        low_rank = (x.float() @ pairs.a.T).view(len(x), len(lora_a_stacked), len(rows.slots), -1)
        _mask(low_rank, rows)
        offset = 0
        for index, (b, width) in enumerate(zip(pairs.b, widths, strict=True)):
            _expand(y[:, offset : offset + width], low_rank[:, index], b, scale)
            offset += width

    def _pairs(
        self, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], slots: Sequence[int]
    ) -> _Pairs:
        """A layer's matrices for these slots, from the last step where nothing was written to them."""
        pairs = self._pairs_of_layer.get(id(a[0]))
        if pairs is None or pairs.slots != slots or pairs.written != _times_written(a, b):
            pairs = _Pairs(
                stacked_a=a[0],
                slots=slots,
                written=_times_written(a, b),
                a=torch.cat([stacked[slot, 0] for stacked in a for slot in slots]).float(),
                b=[_all_b(stacked, slots) for stacked in b],
            )
            self._pairs_of_layer[id(a[0])] = pairs
        return pairs


def _times_written(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> list[int]:
    """How often each was changed in place: vLLM copies an adapter into its slot."""
    return [tensor._version for tensor in (*a, *b)]


def _all_b(stacked: torch.Tensor, slots: Sequence[int]) -> torch.Tensor:
    return torch.cat([stacked[slot, 0] for slot in slots], dim=1)


def _assign(slot_of_row: torch.Tensor) -> _Assignment:
    """Reads vLLM's slot of each row, ``[T]``; -1 is the base model."""
    present = sorted(set(slot_of_row.tolist()))
    slots = [slot for slot in present if slot >= 0]
    if len(present) == 1:
        return _Assignment(slots=slots, others=None)
    others = slot_of_row[:, None] != torch.tensor(slots, device=slot_of_row.device)
    return _Assignment(slots=slots, others=others)


def _mask(low_rank: torch.Tensor, rows: _Assignment) -> None:
    """Zeroes ``[T, slices, n, r]`` where a row has another adapter."""
    if rows.others is not None:
        # Filled, not multiplied: an adapter that overflows must not spoil the others' rows.
        low_rank.masked_fill_(rows.others[:, None, :, None], 0.0)


def _expand(y: torch.Tensor, low_rank: torch.Tensor, b: torch.Tensor, scale: float) -> None:
    """Adds ``scale · low_rank Bᵀ`` to ``y``; ``low_rank`` is ``[T, n, r]``."""
    y.addmm_(low_rank.flatten(1).to(y.dtype), b.to(y.dtype).T, alpha=scale)
