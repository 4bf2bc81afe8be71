"""Linear layers that share an input, with a LoRA adapter: few matrix products, all in the base's dtype.

A *widened* product includes the adapter's product: its input is ``[x | A x]`` and its weights are ``[W | B]``. On a
GPU this costs only a few more columns, whereas a separate product would read and write the whole output again. On a
CPU, where multiplications take most of the time, the adapter of each layer has a product of its own.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from trainer.model.decoder.adapter_copies import Adapter, rank_of

_ALIGNMENT = 8
"""The number of free columns is a multiple of this, since a GPU reads rows of 16-bit numbers 16 bytes at a time."""


class SharedInput:
    """Frozen linear layers that get the same input; their outputs lie side by side."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        adapted: Sequence[LoraLinear],
        places: Sequence[int],
        num_outputs: Sequence[int],
        *,
        num_free: int,
    ):
        """Keep what a pass needs; see `shared_input`.

        Args:
            weight: [N, in + num_free] the base's weights, then zeros.
            bias: [N]
            adapted: The layers that have adapters.
            places: Their indices among all the layers.
            num_outputs: The number of outputs of each layer, N in all.
            num_free: R, the number of columns in a widened product's input that are filled here; 0 if not widened.
        """
        self.weight, self.bias, self.adapted = weight, bias, tuple(adapted)
        self.transposed = weight.T
        self._places, self._num_outputs = tuple(places), list(num_outputs)
        self._ranks = [rank_of(module) for module in adapted]
        self.num_low = num_free or sum(self._ranks)
        """The number of columns of an input's product with A."""
        self.num_free = num_free
        self.columns = [weight.shape[1] - num_free, num_free]
        """The columns of a widened product's input: those that are given, and those that are filled here."""
        self.ups = weight[:, self.columns[0] :]
        """[N, R] the columns beside the base's weights: each layer's B in its own rows and columns, zeros elsewhere."""
        self._b = list(self.blocks(self.ups)) if num_free else []
        self._held_pass: int | None = None

    def __call__(
        self, x: Tensor, adapter: Adapter | None, residual: Tensor | None = None
    ) -> Tensor:
        """[T, N] outputs, plus ``residual`` if it is given.

        Args:
            x: [T, in + num_free] inputs, then columns that are overwritten here, so that nothing else may need them.
            adapter: The pass's copies of the adapter.
            residual: [T, N] is added to the outputs; only for layers without a bias.
        """
        matrices = () if adapter is None else (adapter.a, *adapter.b)
        function = _WidenedProduct if self.num_free else _Products
        out: Tensor = function.apply(self, adapter, x, residual, *matrices)  # type: ignore[no-untyped-call]
        return out

    def of_base(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """[T, N] the product with all columns of the weights, plus the residual or else the bias."""
        added = self.bias if residual is None else residual
        if added is None:
            return x.mm(self.transposed)
        return torch.addmm(added, x, self.transposed)

    def hold(self, adapter: Adapter) -> None:
        """Write an adapter's B beside the weights unless it is still there; other passes overwrite it."""
        if self._held_pass != adapter.pass_number:
            torch._foreach_copy_(self._b, list(adapter.b))
            self._held_pass = adapter.pass_number

    def blocks(self, ups: Tensor) -> Iterator[Tensor]:
        """The blocks [out, r] of a tensor [N, R] that belong to the adapted layers."""
        rows, ends = ups.split(self._num_outputs), accumulate(self._ranks)
        for place, end, rank in zip(self._places, ends, self._ranks, strict=True):
            yield rows[place][:, end - rank : end]

    def outputs(self, out: Tensor) -> list[Tensor]:
        """The adapted layers' columns of a tensor [T, N]."""
        if len(self._num_outputs) == 1:
            return [out]
        columns = out.split(self._num_outputs, dim=1)
        return [columns[place] for place in self._places]

    def lows(self, low: Tensor) -> Sequence[Tensor]:
        """The adapted layers' columns of low-rank products [T, R]."""
        return [low] if len(self._ranks) == 1 else low.split(self._ranks, dim=1)


def shared_input(modules: Sequence[Any], *, widened: bool) -> SharedInput | None:
    """Linear layers combined into one; None if one of them is quantized or otherwise not a plain linear layer.

    The layers' weights become views of one tensor.

    Args:
        modules: The layers; some may be in PEFT's wrapper.
        widened: Whether the base's product includes the adapter's; see the module's docstring.
    """
    linears = [m.base_layer if isinstance(m, LoraLinear) else m for m in modules]
    if any(type(linear) is not nn.Linear for linear in linears):
        return None
    biases = [linear.bias for linear in linears]
    if any((b is None) is not (biases[0] is None) for b in biases):
        return None
    bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])
    num_outputs = [linear.out_features for linear in linears]
    places = [i for i, module in enumerate(modules) if isinstance(module, LoraLinear)]
    adapted = [modules[i] for i in places]
    num_free = -(-sum(map(rank_of, adapted)) // _ALIGNMENT) * _ALIGNMENT if widened else 0
    weight = linears[0].weight.detach()
    if len(linears) > 1 or num_free:
        num_inputs = linears[0].in_features
        weight = weight.new_zeros((sum(num_outputs), num_inputs + num_free))
        for linear, rows in zip(linears, weight[:, :num_inputs].split(num_outputs), strict=True):
            linear.weight = nn.Parameter(rows.copy_(linear.weight.detach()), requires_grad=False)
    return SharedInput(weight, bias, adapted, places, num_outputs, num_free=num_free)


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
        """[T, N] from [T, in]; ``matrices`` are the adapter's, given here so that they get gradients."""
        out = layers.of_base(x, residual)
        # Not in save_for_backward: nothing overwrites the adapter's tensors, and checkpointing has less to track.
        ctx.layers, ctx.adapter = layers, adapter
        if adapter is not None:
            down, *ups = adapter.transposed
            low = x.mm(down)
            for columns, low_columns, up in zip(
                layers.outputs(out), layers.lows(low), ups, strict=True
            ):
                columns.addmm_(low_columns, up)
            ctx.save_for_backward(x, low)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input, the residual, A and each B."""
        layers: SharedInput = ctx.layers
        adapter: Adapter | None = ctx.adapter
        _, _, needs_x, needs_residual, *needs_matrices = ctx.needs_input_grad
        grad_input = grad.mm(layers.weight) if needs_x else None
        found: list[Tensor | None] = [None] * len(needs_matrices)
        if adapter is not None:
            x, low = ctx.saved_tensors
            grad_low, grad_outputs = torch.empty_like(low), layers.outputs(grad)
            grad_lows = layers.lows(grad_low)
            for grad_out, b, grad_part in zip(grad_outputs, adapter.b, grad_lows, strict=True):
                torch.mm(grad_out, b, out=grad_part)
            if grad_input is not None:
                grad_input.addmm_(grad_low, adapter.a)
            if any(needs_matrices):
                pairs = zip(grad_outputs, layers.lows(low), strict=True)
                found = [grad_low.T.mm(x), *(grad_out.T.mm(part) for grad_out, part in pairs)]
        return None, None, grad_input, grad if needs_residual else None, *found


class _WidenedProduct(torch.autograd.Function):
    """One product with the weights forwards and one backwards; see the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        layers: SharedInput,
        adapter: Adapter,
        x: Tensor,
        residual: Tensor | None,
        *matrices: Tensor,
    ) -> Tensor:
        """[T, N] from [T, in + R]; ``matrices`` are the adapter's, given here so that they get gradients."""
        layers.hold(adapter)
        inputs, low = x.split(layers.columns, dim=1)
        torch.mm(inputs, adapter.transposed[0], out=low)
        ctx.layers, ctx.adapter = layers, adapter
        ctx.save_for_backward(x)
        return layers.of_base(x, residual)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input (meaningless in its last R columns), the residual, A and each B."""
        layers: SharedInput = ctx.layers
        adapter: Adapter = ctx.adapter
        _, _, needs_x, needs_residual, *needs_matrices = ctx.needs_input_grad
        layers.hold(adapter)
        both = None
        if needs_x:
            both = grad.mm(layers.weight)
            grad_inputs, grad_low = both.split(layers.columns, dim=1)
            grad_inputs.addmm_(grad_low, adapter.a)
        else:
            grad_low = grad.mm(layers.ups)
        found: list[Tensor | None] = [None] * len(needs_matrices)
        if any(needs_matrices):
            (x,) = ctx.saved_tensors
            inputs, low = x.split(layers.columns, dim=1)
            found = [grad_low.T.mm(inputs), *layers.blocks(grad.T.mm(low))]
        return None, None, both, grad if needs_residual else None, *found
