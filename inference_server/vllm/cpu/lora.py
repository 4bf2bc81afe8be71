"""Fast LoRA on the CPU.

vLLM's CPU kernels (``vllm/lora/ops/torch_ops/lora_ops.py``) gather a whole A and B for every token of a
batch, layer by layer. A batch holds two or three adapters, so this module concatenates their matrices: one
product with all A of a layer, zeros where a token has another adapter, one product with all B. After a push,
that would double the work of every new prompt because of the few tokens still sampled with the previous
version; adapters with few tokens are therefore computed for their own tokens only.

Replaces ``vllm/lora/punica_wrapper/punica_cpu.py`` of vLLM 0.32 and gives the same results up to rounding,
with one exception: there, a token of the base model in a batch with adapters has slot -1, which indexes the
last slot, and gets that slot's adapter. On a GPU vLLM uses its own kernels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform


def install() -> None:
    """Replace vLLM's wrapper in this process, which runs on a CPU."""
    path = f"{GroupedPunicaWrapper.__module__}.{GroupedPunicaWrapper.__qualname__}"
    type(current_platform).get_punica_wrapper = classmethod(lambda cls: path)


# Adapters with at most this share of a batch's rows together are computed for their own rows only: gathering these
# rows and adding them back costs as much as three more adapters on them.
_FEW_ROWS = 0.25
# Sets of slots whose matrices a layer keeps: batches of a run have a few sets in turn, but 16 slots have 65,535.
_MAX_KEPT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Adapters that are computed together, and the rows of a batch that they are computed for."""

    slots: tuple[int, ...]
    rows: torch.Tensor | None
    """Indices ``[m]``; None for the whole batch."""
    absent: Sequence[torch.Tensor]
    """For each slot, the indices of the part's rows that do not use it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pairs:
    """A and B of ``n`` adapters for all output slices of one layer."""

    stacked_a: torch.Tensor
    """Kept alive, so that no other tensor gets the same ``id()``."""
    written: Sequence[int]
    a: torch.Tensor
    """``[slices · n · r, in]`` in float32."""
    b: Sequence[torch.Tensor]
    """For each slice ``[out, n · r]``."""


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]  # vllm is untyped here
    """Adds the LoRA products to the layers' outputs, for all adapters of a batch at once.

    Replaces the methods that a model's layers call, also in a worker under tensor parallelism, but not those
    that ``--fully-sharded-loras`` uses, which the launcher refuses on a CPU.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See the base class."""
        super().__init__(*args, **kwargs)
        self._pairs_of_layer: dict[int, dict[tuple[int, ...], _Pairs]] = {}

    def update_metadata(
        self,
        mapping: Any,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Sets the step's assignment of tokens to adapters; see the base class."""
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
        """Adds ``scale · x Aᵀ Bᵀ`` to each slice of ``y``, with each token's own A and B.

        Args:
            y: Output of the base layer, ``[T, sum(output_slices)]``; changed in place.
            x: Input of the layer, ``[T, in]``.
            lora_a_stacked: For each slice ``[num_slots, 1, r, in]``.
            lora_b_stacked: For each slice ``[num_slots, 1, out, r]``.
            scale: Factor on the product; B already includes alpha/r.
            output_slices: Width of each slice of ``y``.
            kwargs: Arguments of other platforms' kernels; ignored.
        """
        for part in self._tokens:
            self._add(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, part)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **kwargs: Any,
    ) -> None:
        """The same for the output layer, whose rows are the sequences that sample a token in this step."""
        logits, hidden = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        # Base and adapter pad the vocabulary by different amounts.
        width = min(logits.shape[1], lora_b_stacked.shape[-2])
        a, b = (lora_a_stacked,), (lora_b_stacked[..., :width, :],)
        for part in self._samples:
            self._add(logits, hidden, a, b, scale, (width,), part)

    def add_lora_embedding(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        add_inputs: bool = True,
        **kwargs: Any,
    ) -> None:
        """The same for the token embedding; ``x`` ``[T, r]`` holds the rows of A, already looked up."""
        for part in self._tokens:
            low_rank = _rows(part, x)[:, None, None].repeat(1, 1, len(part.slots), 1)
            b = (_all_b(lora_b_stacked, part.slots),)
            _expand(y, low_rank, b, 1.0, (y.shape[1],), part)

    def _add(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Sequence[torch.Tensor],
        lora_b_stacked: Sequence[torch.Tensor],
        scale: float,
        widths: Sequence[int],
        part: _Part,
    ) -> None:
        pairs = self._pairs(lora_a_stacked, lora_b_stacked, part.slots)
        # Between the two products vLLM keeps float32, whatever the dtype of the layers.
        low_rank = _rows(part, x).float() @ pairs.a.T
        shape = (len(low_rank), len(lora_a_stacked), len(part.slots), -1)
        _expand(y, low_rank.view(shape), pairs.b, scale, widths, part)

    def _pairs(
        self, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], slots: tuple[int, ...]
    ) -> _Pairs:
        """A layer's matrices for these slots, reused from an earlier step unless a slot was rewritten."""
        of_layer = self._pairs_of_layer.setdefault(id(a[0]), {})
        pairs, written = of_layer.get(slots), _times_written(a, b)
        if pairs is None or pairs.written != written:
            if any(other.written != written for other in of_layer.values()):
                of_layer.clear()
            while len(of_layer) >= _MAX_KEPT:
                del of_layer[next(iter(of_layer))]
            pairs = _Pairs(
                stacked_a=a[0],
                written=written,
                a=torch.cat([stacked[slot, 0] for stacked in a for slot in slots]).float(),
                b=[_all_b(stacked, slots) for stacked in b],
            )
            of_layer[slots] = pairs
        return pairs


def _times_written(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> list[int]:
    """How often each tensor was changed in place; vLLM does so to copy an adapter into its slot."""
    return [tensor._version for tensor in (*a, *b)]


def _all_b(stacked: torch.Tensor, slots: Sequence[int]) -> torch.Tensor:
    return torch.cat([stacked[slot, 0] for slot in slots], dim=1)


def _assign(slot_of_row: torch.Tensor) -> Sequence[_Part]:
    """Groups rows by the slot that vLLM gives each, ``[T]``; -1 is the base model, which needs no part."""
    num_rows = Counter(slot_of_row.tolist())
    num_rows.pop(-1, 0)
    many, few = sorted(num_rows, key=lambda slot: -num_rows[slot]), list[int]()
    num_few = 0
    while many and num_few + num_rows[many[-1]] <= _FEW_ROWS * len(slot_of_row):
        few.append(many.pop())
        num_few += num_rows[few[-1]]
    parts = [_part(slot_of_row, many, None)] if many else []
    if few:
        rows = torch.isin(slot_of_row, torch.tensor(few)).nonzero()[:, 0]
        parts.append(_part(slot_of_row[rows], few, rows))
    return parts


def _part(slot_of_row: torch.Tensor, slots: Sequence[int], rows: torch.Tensor | None) -> _Part:
    slots = tuple(sorted(slots))
    absent = [(slot_of_row != slot).nonzero()[:, 0] for slot in slots]
    return _Part(slots=slots, rows=rows, absent=absent)


def _rows(part: _Part, x: torch.Tensor) -> torch.Tensor:
    return x if part.rows is None else x[part.rows]


def _expand(
    y: torch.Tensor,
    low_rank: torch.Tensor,
    b: Sequence[torch.Tensor],
    scale: float,
    widths: Sequence[int],
    part: _Part,
) -> None:
    """Adds ``scale · low_rank Bᵀ`` to a part's rows of ``y``; ``low_rank`` is ``[m, slices, n, r]``."""
    for index, rows in enumerate(part.absent):
        if len(rows):
            # Filled, not multiplied by 0: infinities of one adapter must not reach the others' rows.
            low_rank[:, :, index].index_fill_(0, rows, 0.0)
    sums = y if part.rows is None else y.new_zeros(len(part.rows), y.shape[1])
    offset = 0
    for index, (matrix, width) in enumerate(zip(b, widths, strict=True)):
        factors = low_rank[:, index].flatten(1).to(y.dtype)
        sums[:, offset : offset + width].addmm_(factors, matrix.to(y.dtype).T, alpha=scale)
        offset += width
    if part.rows is not None:
        y.index_add_(0, part.rows, sums)
