"""Linear layers that share an input, with a LoRA adapter: few matrix products, all in the base's dtype.

PEFT keeps the adapters in float32, one module at a time; these *masters* are what is trained, saved and sent.
A pass computes with copies of them in the base's dtype, made at its start (`AdapterCopies`): the A of layers
that share an input stacked, and the scale within B. The gradients of a pass return to the masters in float32.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A pass's copies of one role's adapter on layers that share an input."""

    a: Tensor
    """[R, in] the A of all, one below the other."""
    b: tuple[Tensor, ...]
    """Each [out, r], times its scale."""
    transposed: tuple[Tensor, ...]
    """Views of A and of each B, for the recomputation too."""


@dataclass(frozen=True, kw_only=True)
class SharedInput:
    """Frozen linear layers that are given the same input; their outputs lie side by side."""

    weight: Tensor
    """[N, in]"""
    bias: Tensor | None
    """[N]"""
    adapted: tuple[LoraLinear, ...]
    """Those of the layers that have adapters."""
    places: tuple[int, ...]
    """Which of the layers these are."""
    widths: list[int]
    """The outputs of each layer, N in all."""
    transposed: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """A view that every pass takes."""
        object.__setattr__(self, "transposed", self.weight.T)

    def __call__(
        self, x: Tensor, adapter: Adapter | None, residual: Tensor | None = None
    ) -> Tensor:
        """[T, N] outputs for the inputs [T, in], plus ``residual`` [T, N] where there is no bias."""
        matrices = () if adapter is None else (adapter.a, *adapter.b)
        out: Tensor = _Products.apply(self, adapter, x, residual, *matrices)  # type: ignore[no-untyped-call]
        return out

    def parts(self, out: Tensor, low: Tensor, adapter: Adapter) -> Iterator[tuple[Tensor, Tensor]]:
        """For each adapted layer: its columns of the outputs [T, N], and of the low-rank products [T, R]."""
        if len(adapter.b) == 1:
            lows: Sequence[Tensor] = [low]
        else:
            lows = low.split([up.shape[1] for up in adapter.b], dim=1)
        columns = out.split(self.widths, dim=1) if len(self.widths) > 1 else [out]
        return zip((columns[i] for i in self.places), lows, strict=True)


def shared_input(modules: Sequence[Any]) -> SharedInput | None:
    """Linear layers as one; None where one of them is quantized or otherwise not plain.

    The layers' weights become views of one tensor.
    """
    linears = [m.base_layer if isinstance(m, LoraLinear) else m for m in modules]
    if any(type(linear) is not nn.Linear for linear in linears):
        return None
    biases = [linear.bias for linear in linears]
    if any((b is None) is not (biases[0] is None) for b in biases):
        return None
    weight = linears[0].weight.detach()
    bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])
    widths = [linear.out_features for linear in linears]
    if len(linears) > 1:
        weight = torch.cat([linear.weight.detach() for linear in linears])
        for linear, rows in zip(linears, weight.split(widths), strict=True):
            linear.weight = nn.Parameter(rows, requires_grad=False)
    places = [i for i, module in enumerate(modules) if isinstance(module, LoraLinear)]
    return SharedInput(
        weight=weight,
        bias=bias,
        adapted=tuple(modules[i] for i in places),
        places=tuple(places),
        widths=widths,
    )


class _Products(torch.autograd.Function):
    """Products with the frozen weights and with the adapter, added in place."""

    @staticmethod
    def forward(
        ctx: Any,
        layers: SharedInput,
        adapter: Adapter | None,
        x: Tensor,
        residual: Tensor | None,
        *matrices: Tensor,
    ) -> Tensor:
        """[T, N] from [T, in]; the matrices are the adapter's, whose gradients are wanted."""
        added = layers.bias if residual is None else residual
        out = x.mm(layers.transposed) if added is None else torch.addmm(added, x, layers.transposed)
        # Not saved as the other tensors are: nothing overwrites them, and checkpointing has less to track.
        ctx.layers, ctx.adapter = layers, adapter
        if adapter is not None:
            down, *ups = adapter.transposed
            low = x.mm(down)
            parts = layers.parts(out, low, adapter)
            for (of_out, of_low), up in zip(parts, ups, strict=True):
                of_out.addmm_(of_low, up)
            ctx.save_for_backward(x, low)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input, the residual, A and each B."""
        layers: SharedInput = ctx.layers
        adapter: Adapter | None = ctx.adapter
        _, _, of_x, of_residual, *of_matrices = ctx.needs_input_grad
        of_input = grad.mm(layers.weight) if of_x else None
        found: list[Tensor | None] = [None] * len(of_matrices)
        if adapter is not None:
            x, low = ctx.saved_tensors
            grad_low = torch.empty_like(low)
            parts = layers.parts(grad, grad_low, adapter)
            for (of_out, of_low), up in zip(parts, adapter.b, strict=True):
                torch.mm(of_out, up, out=of_low)
            if of_input is not None:
                of_input.addmm_(grad_low, adapter.a)
            if any(of_matrices):
                pairs = layers.parts(grad, low, adapter)
                found = [grad_low.T.mm(x), *(of_out.T.mm(of_low) for of_out, of_low in pairs)]
        return None, None, of_input, grad if of_residual else None, *found


class AdapterCopies:
    """Copies of one role's adapter, all layers at once."""

    def __init__(self, groups: Sequence[SharedInput], role: str):
        """Look the masters up.

        Args:
            groups: The layers, in the order in which `of_pass` gives their copies.
            role: The adapter's name.
        """
        self._has_adapter = [bool(group.adapted) for group in groups]
        self._dtype = groups[0].weight.dtype
        adapted = [group.adapted for group in groups if group.adapted]
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
        return [
            _adapter(next(stacks), tuple(islice(ups, next(sizes)))) if has else None
            for has in self._has_adapter
        ]


@torch.no_grad()
def _adapter(a: Tensor, b: tuple[Tensor, ...]) -> Adapter:
    return Adapter(a=a, b=b, transposed=(a.T, *(up.T for up in b)))


class _Copied(torch.autograd.Function):
    """Masters to copies; the number of launches does not depend on the number of layers."""

    @staticmethod
    def forward(
        ctx: Any, adapter: AdapterCopies, dtype: torch.dtype, *masters: Tensor
    ) -> tuple[Tensor, ...]:
        """The stacked A of each group, then every B times its scale."""
        ctx.adapter = adapter
        num_a = sum(map(len, adapter.a))
        stacks = [
            of_group[0].new_empty((sum(map(len, of_group)), of_group[0].shape[1]), dtype=dtype)
            for of_group in adapter.a
        ]
        ups = [torch.empty_like(b, dtype=dtype) for b in masters[num_a:]]
        torch._foreach_copy_([*_unstacked(adapter, stacks), *ups], list(masters))
        torch._foreach_mul_(ups, adapter.scales)
        return (*stacks, *ups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The masters' gradients, in their own dtype."""
        adapter: AdapterCopies = ctx.adapter
        stacks, ups = grads[: len(adapter.a)], grads[len(adapter.a) :]
        found = [*_unstacked(adapter, stacks), *ups]
        dtype = adapter.a[0][0].dtype
        if found[0].dtype is not dtype:
            cast = [torch.empty_like(grad, dtype=dtype) for grad in found]
            torch._foreach_copy_(cast, found)
            found = cast
        torch._foreach_mul_(found[-len(ups) :], adapter.scales)
        return None, None, *found


def _unstacked(adapter: AdapterCopies, stacks: Sequence[Tensor]) -> list[Tensor]:
    """Each A's rows of its group's stack."""
    return [
        rows
        for of_group, stack in zip(adapter.a, stacks, strict=True)
        for rows in (stack.split([len(a) for a in of_group]) if len(of_group) > 1 else [stack])
    ]
