"""Which shard a micro-batch belongs to, and the sum of the shards' gradients."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.ranks.process_group import Ranks
from trainer.ranks.shards import (
    add_gradients,
    in_order,
    own_shards,
    shards_by_cost,
    taken_gradients,
)

COSTS = st.lists(st.floats(0.001, 1000), max_size=40)


@given(COSTS, st.integers(1, 9))
def test_no_shard_costs_more_than_the_mean_and_one_micro_batch(
    costs: list[float], num_shards: int
) -> None:
    shards = shards_by_cost(costs, num_shards)
    totals = [
        sum(c for c, s in zip(costs, shards, strict=True) if s == i) for i in range(num_shards)
    ]
    assert len(shards) == len(costs)
    assert max(totals) <= sum(costs) / num_shards + max(costs, default=0) + 1e-6
    # Where there are enough, none is left without.
    assert len(costs) < num_shards or all(totals)


def test_every_shard_is_one_ranks() -> None:
    for size in (1, 2, 3):
        for num_shards in (1, 2, 3, 7):
            owned = [i for rank in range(size) for i in own_shards(Ranks(rank, size), num_shards)]
            assert sorted(owned) == list(range(num_shards))


def test_parts_are_put_in_the_order_of_their_shards() -> None:
    assert in_order([{0: "a", 2: "c"}, {3: "d", 1: "b"}]) == ["a", "b", "c", "d"]


def test_gradients_are_added_in_order_and_absent_ones_stay_absent() -> None:
    parameters = [
        nn.Parameter(torch.zeros(2)),
        nn.Parameter(torch.zeros(1, 3)),
        nn.Parameter(torch.zeros(1)),
    ]
    large, small = torch.tensor([1e8, 1.0]), torch.tensor([1.0, 1e-8])
    row = torch.tensor([[1.0, 2.0, 3.0]])
    of_shards = {0: [large, None, None], 1: [small, row, None], 2: [-large, row, None]}
    add_gradients(Ranks(), 3, parameters, of_shards)
    first, second, third = taken_gradients(parameters)
    assert torch.equal(first, (large + small) - large)  # type: ignore[arg-type]
    assert torch.equal(second, 2 * row)  # type: ignore[arg-type]
    assert third is None
    assert all(parameter.grad is None for parameter in parameters)
