"""Makes the copies of a role's adapter that a pass computes with, in the base's dtype.

PEFT keeps the adapters in float32, in separate tensors for each module. These *masters* are trained, saved and sent;
they get the gradients of a pass in float32.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress, count, islice
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor

_Shape = tuple[int, int]
"""Rows and columns."""

_pass_numbers = count()


def rank_of(module: LoraLinear) -> int:
    """The rank of the adapters on a layer; it is the same for every role, since all start from one adapter."""
    (rank,) = set(module.r.values())
    return int(rank)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A pass's copies of one role's adapter on layers that share an input."""

    a: Tensor
    """[R, in] the A of each layer, one below the other; below them zeros, if R is more than the sum of the ranks."""
    b: tuple[Tensor, ...]
    """The B of each layer, [out, r], times its scale."""
    transposed: tuple[Tensor, ...]
    """The transposes of A and of each B."""
    pass_number: int
    """Unique to the pass."""


class AdapterCopies:
    """Makes copies of one role's adapter for all layers at once."""

    def __init__(
        self,
        groups: Sequence[Sequence[LoraLinear]],
        num_rows: Sequence[int],
        role: str,
        dtype: torch.dtype,
    ):
        """Look up the masters.

        Args:
            groups: Groups of layers that share an input, in the order in which `for_pass` returns their copies.
            num_rows: R of each group.
            role: The adapter's name.
            dtype: The base's dtype.
        """
        self._has_adapter = [bool(group) for group in groups]
        self._dtype = dtype
        adapted = [group for group in groups if group]
        modules = [module for group in adapted for module in group]
        self.a = [m.lora_A[role].weight for m in modules]
        self.b = [m.lora_B[role].weight for m in modules]
        self.scales = [float(m.scaling[role]) for m in modules]
        self.ranks = [[rank_of(module) for module in group] for group in adapted]
        self._stacks: list[_Shape] = []
        """The shape of each group's stacked A."""
        self._parts: list[_Shape] = []
        """The shapes of each A in a stack, and of the zero rows below them."""
        self._is_a: list[bool] = []
        """Which of the parts are an A."""
        for rows, group, ranks in zip(compress(num_rows, groups), adapted, self.ranks, strict=True):
            columns = group[0].in_features
            self._stacks.append((rows, columns))
            self._parts += [(part, columns) for part in [*ranks, rows - sum(ranks)]]
            self._is_a += [*(True for _ in ranks), False]

    def for_pass(self) -> list[Adapter | None]:
        """Make a pass's copies, one `Adapter` for each group of layers; None for a group without adapters."""
        if not self.a:
            return [None] * len(self._has_adapter)
        masters = [*self.a, *self.b]
        with torch.no_grad():
            all_a = _Stacked(self._stacks, masters[0], self._dtype)
            all_b = _Stacked(_shapes(self.b), masters[0], self._dtype)
            parts = compress(all_a.matrices(self._parts), self._is_a)
            ups = all_b.matrices()
            torch._foreach_copy_([*parts, *ups], masters)
            torch._foreach_mul_(ups, self.scales)
            copies = [*all_a.matrices(), *ups]
            a_transposed, b_transposed = iter(all_a.transposes()), iter(all_b.transposes())
        copies = _Copied.apply(self, copies, *masters)  # type: ignore[no-untyped-call]
        stacks, of_layers = copies[: len(self.ranks)], iter(copies[len(self.ranks) :])
        number = next(_pass_numbers)
        adapters = (
            Adapter(
                a=stack,
                b=tuple(islice(of_layers, len(ranks))),
                transposed=(next(a_transposed), *islice(b_transposed, len(ranks))),
                pass_number=number,
            )
            for stack, ranks in zip(stacks, self.ranks, strict=True)
        )
        return [next(adapters) if has else None for has in self._has_adapter]


class _Copied(torch.autograd.Function):
    """Passes the copies' gradients on to their masters."""

    @staticmethod
    def forward(
        ctx: Any, adapter: AdapterCopies, copies: list[Tensor], *_: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the copies, which already have the masters' values: the A of each group, then every B."""
        ctx.adapter = adapter
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The masters' gradients, in their own dtype."""
        adapter: AdapterCopies = ctx.adapter
        num_groups = len(adapter.ranks)
        grads_of_a = [
            part
            for stack, ranks in zip(grads[:num_groups], adapter.ranks, strict=True)
            for part in _rows(stack, ranks)
        ]
        dtype = adapter.a[0].dtype
        # With widened products, the gradients of B are views of a larger matrix; autograd would copy each one.
        grads_of_a, grads_of_b = (_dense(g, dtype) for g in (grads_of_a, grads[num_groups:]))
        torch._foreach_mul_(grads_of_b, adapter.scales)
        return None, None, *grads_of_a, *grads_of_b


class _Stacked:
    """Matrices one below the other, in one tensor for each number of columns.

    An operation on all matrices then takes as few calls for many layers as for one.
    """

    def __init__(self, shapes: Sequence[_Shape], like: Tensor, dtype: torch.dtype):
        """Zeros of these shapes, on the device of ``like``."""
        self._shapes = shapes
        num_rows: Counter[int] = Counter()
        for rows, columns in shapes:
            num_rows[columns] += rows
        self._wholes = {
            columns: like.new_zeros((rows, columns), dtype=dtype)
            for columns, rows in num_rows.items()
        }

    def matrices(self, shapes: Sequence[_Shape] | None = None) -> list[Tensor]:
        """Views of all matrices, or views of other shapes that divide the same rows."""
        return self._divided(shapes or self._shapes, lambda whole, rows: whole.split(rows))

    def transposes(self) -> list[Tensor]:
        """Views of the transposes of all matrices."""
        return self._divided(self._shapes, lambda whole, rows: whole.T.split(rows, dim=1))

    def _divided(
        self,
        shapes: Sequence[_Shape],
        divide: Callable[[Tensor, list[int]], Sequence[Tensor]],
    ) -> list[Tensor]:
        parts = {
            columns: iter(divide(whole, [rows for rows, c in shapes if c == columns]))
            for columns, whole in self._wholes.items()
        }
        return [next(parts[columns]) for _, columns in shapes]


def _shapes(matrices: Sequence[Tensor]) -> list[_Shape]:
    return [(len(matrix), matrix.shape[1]) for matrix in matrices]


def _dense(grads: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The gradients in a dtype, each contiguous: themselves if they are so already, else copies."""
    if all(grad.dtype is dtype and grad.is_contiguous() for grad in grads):
        return list(grads)
    copies = _Stacked(_shapes(grads), grads[0], dtype).matrices()
    torch._foreach_copy_(copies, list(grads))
    return copies


def _rows(stack: Tensor, ranks: list[int]) -> Sequence[Tensor]:
    """The rows of each A in a stack, without the zero rows below them."""
    if ranks == [len(stack)]:
        return [stack]
    parts: Sequence[Tensor] = stack.split([*ranks, len(stack) - sum(ranks)])
    return parts[:-1]
