"""The optimizers of policy and critic: their parameters, gradient clipping, and steps that can be undone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn


def adamw(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW, fused into one pass over all parameters, since an adapter consists of many small tensors."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimizer, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameters, from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def clip(optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """Scale the gradients down to at most ``max_norm``; returns their norm before that."""
    return float(torch.nn.utils.clip_grad_norm_(parameters_of(optimizer), max_norm))


@contextmanager
def undone_on_failure(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Restore weights and optimizers if the block fails, even after some of its optimizer steps.

    This costs a copy of the adapters and their moments, which are small compared with the base.
    """
    saved = [_Saved.of(optimizer) for optimizer in optimizers]
    try:
        yield
    except BaseException:
        for state in saved:
            state.restore()
        raise
    finally:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """Copies of an optimizer's parameters, moments and learning rates, made with few kernel launches."""

    optimizer: torch.optim.Optimizer
    weights: list[Tensor]
    states: dict[Tensor, dict[str, Any]]
    learning_rates: list[float]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> Self:
        """Copy an optimizer's state."""
        tensors = [x for state in optimizer.state.values() for x in state.values()]
        copies = iter(_copies(tensors))
        return cls(
            optimizer=optimizer,
            weights=_copies(parameters_of(optimizer)),
            states={p: {key: next(copies) for key in s} for p, s in optimizer.state.items()},
            learning_rates=[group["lr"] for group in optimizer.param_groups],
        )

    @torch.no_grad()
    def restore(self) -> None:
        """Overwrite weights, moments and learning rates."""
        for parameter, weight in zip(parameters_of(self.optimizer), self.weights, strict=True):
            parameter.copy_(weight)
        # The state of parameters that had no step before the block is dropped again.
        self.optimizer.state.clear()
        self.optimizer.state.update(self.states)
        for group, rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = rate


@torch.no_grad()
def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    copies = [torch.empty_like(tensor, requires_grad=False) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies
