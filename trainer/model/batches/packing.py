"""Lays sequences out as prefix trees in the rows of micro-batches, at the lowest computing cost."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.model.batches.prefix_tree import Ints, PrefixTree, common_prefixes, plant
from trainer.model.batches.row_packing import pack, pack_apart, row_cost


@dataclass(frozen=True, kw_only=True)
class PlacedTree:
    """A tree in a row."""

    indices: tuple[int, ...]
    """The indices of its sequences among all packed sequences, in the order of the tree's paths."""
    tree: PrefixTree

    @property
    def num_nodes(self) -> int:
        """How many tokens of its row it takes up."""
        return len(self.tree.tokens)


def packed_trees(
    sequences: Sequence[tuple[int, ...]],
    *,
    max_tokens: int,
    hidden_size: int,
    num_shards: int,
    shares_prefixes: bool,
) -> list[list[list[PlacedTree]]]:
    """Divide sequences into trees, and divide the trees among the rows of micro-batches.

    Args:
        sequences: Token ids.
        max_tokens: The most rows × width of a micro-batch, padding included. A longer sequence gets a micro-batch of
            its own, shared only with sequences that add no tokens.
        hidden_size: The model's hidden size; determines the costs.
        num_shards: The number of shards among which micro-batches are divided; if there are enough sequences, no
            micro-batch is larger than a shard's share.
        shares_prefixes: If false, a row holds one sequence and those that are prefixes of it.

    Returns:
        For each micro-batch its rows; each row is a list of trees.
    """
    if not sequences:
        return []
    trees = _trees(sequences, max_tokens, hidden_size, shares_prefixes)
    if num_shards > 1:
        max_tokens = shard_budget([tree.num_nodes for tree in trees], max_tokens, num_shards)
        trees = _trees(sequences, max_tokens, hidden_size, shares_prefixes)
    trees.sort(key=lambda tree: -tree.num_nodes)
    sizes = [tree.num_nodes for tree in trees]
    if shares_prefixes:
        packed = pack(sizes, max_tokens=max_tokens, hidden_size=hidden_size)
    else:
        packed = pack_apart(sizes, max_tokens=max_tokens)
    return [[[trees[i] for i in row] for row in rows] for rows in packed]


def _trees(
    sequences: Sequence[tuple[int, ...]], max_nodes: int, hidden_size: int, shares_prefixes: bool
) -> list[PlacedTree]:
    """The sequences divided into trees of at most ``max_nodes`` nodes."""
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    ordered = [np.array(sequences[i], dtype=np.int64) for i in order]
    shared = common_prefixes(ordered)
    lengths = np.array([len(sequence) for sequence in ordered])
    if shares_prefixes:
        runs = cut(lengths, shared, max_nodes=max_nodes, hidden_size=hidden_size)
    else:
        runs = chains(lengths, shared)
    return [
        PlacedTree(indices=tuple(order[run]), tree=plant(ordered[run], shared[run])) for run in runs
    ]


def cut(lengths: Ints, shared: Ints, *, max_nodes: int, hidden_size: int) -> list[slice]:
    """Divide sequences in lexicographic order into the runs that are cheapest to compute as trees.

    A cut between two runs computes their shared prefix twice, but saves the attention between the two sides.

    Args:
        lengths: [S] number of tokens of each sequence.
        shared: [S] see `common_prefixes`.
        max_nodes: The most nodes of a run; a longer sequence is a run of its own.
        hidden_size: The model's hidden size; see `row_cost`.
    """
    # The run i..j has new[j] - new[i] + lengths[i] nodes; new[j] counts the nodes that the sequences up to j add.
    new = np.cumsum(lengths - shared)
    best = np.zeros(len(lengths) + 1)
    first = np.zeros(len(lengths), dtype=np.int64)
    for j in range(len(lengths)):
        nodes = new[j] - new[: j + 1] + lengths[: j + 1]
        cost = best[: j + 1] + row_cost(nodes, hidden_size)
        cost[:j][nodes[:j] > max_nodes] = np.inf
        first[j] = cost.argmin()
        best[j + 1] = cost[first[j]]
    runs: list[slice] = []
    stop = len(lengths)
    while stop:
        runs.append(slice(int(first[stop - 1]), stop))
        stop = runs[-1].start
    return runs[::-1]


def chains(lengths: Ints, shared: Ints) -> list[slice]:
    """Divide sequences in lexicographic order into runs whose trees have no branches.

    A run is one sequence with those that are prefixes of it.

    Args:
        lengths: [S] number of tokens of each sequence.
        shared: [S] see `common_prefixes`.
    """
    starts = [0, *(i for i in range(1, len(lengths)) if shared[i] < lengths[i - 1])]
    return [slice(i, j) for i, j in zip(starts, [*starts[1:], len(lengths)], strict=True)]


def shard_budget(sizes: Iterable[int], max_tokens: int, num_shards: int) -> int:
    """The most tokens of a micro-batch if micro-batches are divided among shards: at most one shard's share.

    Args:
        sizes: Number of nodes of each tree.
        max_tokens: The most tokens of any micro-batch.
        num_shards: At least 1.
    """
    return min(max_tokens, math.ceil(sum(sizes) / num_shards))
