"""The optimizers of policy and critic: their parameters, clipping, and a step that can be taken back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn


def adamw(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW in one pass over all parameters: an adapter is many small tensors."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All of its parameters, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Of all parameters, from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def clip(optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """Scale the gradients down to a norm; returns the norm before."""
    return float(torch.nn.utils.clip_grad_norm_(parameters_of(optimizer), max_norm))


@contextmanager
def undone_on_failure(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Restore weights and optimizers if the block fails after some of its steps.

    Costs a copy of the adapters and their moments, which are small beside the base.
    """
    saved = [
        (optimizer, [p.detach().clone() for p in parameters_of(optimizer)], state)
        for optimizer in optimizers
        for state in [deepcopy(optimizer.state_dict())]
    ]
    try:
        yield
    except BaseException:
        for optimizer, weights, state in saved:
            _restore(optimizer, weights)
            optimizer.load_state_dict(state)
        raise
    finally:
        for optimizer, _, _ in saved:
            optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def _restore(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> None:
    for parameter, weight in zip(parameters_of(optimizer), weights, strict=True):
        parameter.copy_(weight)
