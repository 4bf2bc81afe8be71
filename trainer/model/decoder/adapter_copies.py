"""Copies of a role's adapter that a pass computes with, in the base's dtype.

PEFT keeps the adapters in float32, one module at a time; these *masters* are what is trained, saved and sent.
The gradients of a pass return to them in float32.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor

_pass_numbers = count()


def rank_of(module: LoraLinear) -> int:
    """The rank of every role's adapter on a layer: they start from the same one."""
    (rank,) = set(module.r.values())
    return int(rank)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A pass's copies of one role's adapter on layers that share an input."""

    a: Tensor
    """[R, in] the A of all, one below the other; zeros below them where R is more than their ranks."""
    b: tuple[Tensor, ...]
    """Each [out, r], times its scale."""
    transposed: tuple[Tensor, ...]
    """Views of A and of each B, for the recomputation too."""
    pass_number: int
    """No other pass has it."""


class AdapterCopies:
    """Copies of one role's adapter, all layers at once."""

    def __init__(
        self,
        groups: Sequence[Sequence[LoraLinear]],
        num_rows: Sequence[int],
        role: str,
        dtype: torch.dtype,
    ):
        """Look the masters up.

        Args:
            groups: Layers that share an input, in the order in which `of_pass` gives their copies.
            num_rows: R of each.
            role: The adapter's name.
            dtype: The base's.
        """
        self._has_adapter = [bool(group) for group in groups]
        self._dtype = dtype
        adapted = [group for group in groups if group]
        self.num_rows = [rows for rows, group in zip(num_rows, groups, strict=True) if group]
        self.a = [[m.lora_A[role].weight for m in modules] for modules in adapted]
        self.b = [[m.lora_B[role].weight for m in modules] for modules in adapted]
        self.scales = [float(m.scaling[role]) for modules in adapted for m in modules]

    def of_pass(self) -> list[Adapter | None]:
        """The copies of each group of layers; None for one without an adapter."""
        masters = [m for of_group in (*self.a, *self.b) for m in of_group]
        if not masters:
            return [None] * len(self._has_adapter)
        copies = _Copied.apply(self, self._dtype, *masters)  # type: ignore[no-untyped-call]
        stacks, ups = iter(copies[: len(self.a)]), iter(copies[len(self.a) :])
        sizes = iter(map(len, self.b))
        number = next(_pass_numbers)
        return [
            _adapter(next(stacks), tuple(islice(ups, next(sizes))), number) if has else None
            for has in self._has_adapter
        ]


@torch.no_grad()
def _adapter(a: Tensor, b: tuple[Tensor, ...], pass_number: int) -> Adapter:
    return Adapter(a=a, b=b, transposed=(a.T, *(up.T for up in b)), pass_number=pass_number)


class _Copied(torch.autograd.Function):
    """Masters to copies; the number of launches does not depend on the number of layers."""

    @staticmethod
    def forward(
        ctx: Any, adapter: AdapterCopies, dtype: torch.dtype, *masters: Tensor
    ) -> tuple[Tensor, ...]:
        """The stacked A of each group, then every B times its scale."""
        ctx.adapter = adapter
        num_a = sum(map(len, adapter.a))
        shapes = [
            (rows, group[0].shape[1])
            for rows, group in zip(adapter.num_rows, adapter.a, strict=True)
        ]
        # Zeros, for rows that are no layer's.
        flat = masters[0].new_zeros(sum(map(math.prod, shapes)), dtype=dtype)
        parts = flat.split(list(map(math.prod, shapes)))
        stacks = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        ups = [torch.empty_like(b, dtype=dtype) for b in masters[num_a:]]
        torch._foreach_copy_([*_unstacked(adapter, stacks), *ups], list(masters))
        torch._foreach_mul_(ups, adapter.scales)
        return (*stacks, *ups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The masters' gradients, in their own dtype."""
        adapter: AdapterCopies = ctx.adapter
        dtype = adapter.a[0][0].dtype
        of_a = _cast(_unstacked(adapter, grads[: len(adapter.a)]), dtype)
        of_b = _cast(list(grads[len(adapter.a) :]), dtype)
        torch._foreach_mul_(of_b, adapter.scales)
        return None, None, *of_a, *of_b


def _cast(grads: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """In few launches where all lie dense in memory, which the gradients of B do not."""
    if grads[0].dtype is dtype:
        return grads
    cast = [torch.empty_like(grad, dtype=dtype) for grad in grads]
    torch._foreach_copy_(cast, grads)
    return cast


def _unstacked(adapter: AdapterCopies, stacks: Sequence[Tensor]) -> list[Tensor]:
    """Each A's rows of its group's stack."""
    found: list[Tensor] = []
    for of_group, stack in zip(adapter.a, stacks, strict=True):
        ranks = [len(a) for a in of_group]
        if ranks == [len(stack)]:
            found.append(stack)
        else:
            *parts, _ = stack.split([*ranks, len(stack) - sum(ranks)])
            found += parts
    return found
