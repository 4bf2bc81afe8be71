"""The shards of a mini-batch: which micro-batches are computed together, and the sum of their gradients.

Each mini-batch of a step is divided into as many shards as the run had ranks, and rank r of n computes the shards
r, r + n, …. Gradients are added shard by shard, in order, whichever rank computed them. So a step of any number of
ranks can be recomputed with any other number, to the last bit (on a CPU).
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from trainer.ranks.process_group import Ranks

_T = TypeVar("_T")

Gradients = Sequence[Tensor | None]
"""One for each parameter; None for a parameter on which the loss does not depend."""


def shards_by_cost(costs: Sequence[float], num_shards: int) -> list[int]:
    """The shard of each micro-batch; the costliest are assigned first, each to the shard with the lowest cost so far.

    Args:
        costs: The cost of each micro-batch.
        num_shards: At least 1.
    """
    totals = [0.0] * num_shards
    shards = [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        shards[i] = min(range(num_shards), key=totals.__getitem__)
        totals[shards[i]] += costs[i]
    return shards


def own_shards(ranks: Ranks, num_shards: int) -> range:
    """The shards that this rank computes."""
    return range(ranks.rank, num_shards, ranks.size)


def are_divided(ranks: Ranks, num_shards: int) -> bool:
    """Whether the gradients of a mini-batch have to be added, or given to ranks that computed none."""
    return max(ranks.size, num_shards) > 1


def fewer_than_most(ranks: Ranks, shards: Sequence[int]) -> int:
    """How many micro-batches fewer this rank has than the rank that has the most.

    Args:
        ranks: The processes of the job.
        shards: The shard of each micro-batch.
    """
    counts = [0] * ranks.size
    for shard in shards:
        counts[shard % ranks.size] += 1
    return max(counts) - counts[ranks.rank]


def taken_gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """Take the gradients away from the parameters, and return them."""
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


def add_gradients(
    ranks: Ranks,
    num_shards: int,
    parameters: Sequence[nn.Parameter],
    of_shards: Mapping[int, Gradients],
) -> None:
    """Give the parameters the sum of all shards' gradients, the same on every rank.

    A parameter without a gradient in any shard gets none.

    Args:
        ranks: The processes of the job.
        num_shards: The number of shards of a mini-batch.
        parameters: All of the same dtype, on the same device.
        of_shards: The gradients of the shards that this rank computed.

    Raises:
        RankLostError: A rank has ended.
    """
    total: Tensor | None = None
    has_gradient: Tensor | None = None
    for first in range(0, num_shards, ranks.size):
        mine = of_shards.get(first + ranks.rank, [None] * len(parameters))
        # The flags travel in the same collective as the gradients; 0 and 1 are exact in every dtype.
        flags = parameters[0].new_tensor([float(gradient is not None) for gradient in mine])
        flat = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(parameters, mine, strict=True)
        ]
        packed = torch.cat([flags, *(tensor.flatten() for tensor in flat)])
        for shard, other in enumerate(ranks.gather_tensor(packed), start=first):
            if shard < num_shards:
                flags, gradients = other[: len(parameters)], other[len(parameters) :]
                has_gradient = flags if has_gradient is None else torch.maximum(has_gradient, flags)
                total = gradients if total is None else total + gradients
    if total is None or has_gradient is None:
        return
    pieces = total.split([parameter.numel() for parameter in parameters])
    for parameter, piece, has in zip(parameters, pieces, has_gradient.tolist(), strict=True):
        parameter.grad = piece.view_as(parameter) if has else None


def in_order(parts: Sequence[Mapping[int, _T]]) -> list[_T]:
    """What the ranks have for their shards, shard by shard.

    Args:
        parts: For each rank, its parts by shard number.
    """
    merged = {shard: part for of_rank in parts for shard, part in of_rank.items()}
    return [merged[shard] for shard in sorted(merged)]
