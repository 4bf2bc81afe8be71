"""Token sequences as a tree in which each common prefix is stored once.

Nodes are tokens in depth-first preorder. A subtree is then an interval, and one number per node, the
end of its subtree, gives the attention mask: token ``i`` attends to ``j`` if ``j <= i < ends[j]``. The
same holds for trees that are laid side by side.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapreplace

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_MORE_MICRO_BATCHES = 1.5
"""How many times as many micro-batches the cheaper rows may take."""
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)
"""Of the budget, that the nodes of a micro-batch may fill: the rest is room for shorter rows and their padding."""


@dataclass(frozen=True, kw_only=True)
class PrefixTree:
    """N nodes; see `plant`."""

    tokens: Ints
    """[N] token id."""
    depths: Ints
    """[N] number of tokens before it in its sequences: its position."""
    ends: Ints
    """[N] the node after its subtree."""
    paths: tuple[Ints, ...]
    """For each sequence, the nodes of its tokens."""


def common_prefixes(sequences: Sequence[Ints]) -> Ints:
    """[S] length of the prefix that each sequence shares with the one before it; 0 for the first."""
    shared = np.zeros(len(sequences), dtype=np.int64)
    for i in range(1, len(sequences)):
        length = min(len(sequences[i - 1]), len(sequences[i]))
        differs = sequences[i - 1][:length] != sequences[i][:length]
        shared[i] = differs.argmax() if differs.any() else length
    return shared


def plant(sequences: Sequence[Ints], shared: Ints) -> PrefixTree:
    """The tree of sequences in lexicographic order.

    Args:
        sequences: At least one, none empty.
        shared: [S] length of the prefix that each shares with the one before, see
            `common_prefixes`; the first number is not read.
    """
    num_new = [len(s) - int(k) for s, k in zip(sequences, shared, strict=True)]
    num_new[0] = len(sequences[0])
    ends = np.empty(sum(num_new), dtype=np.int64)
    paths: list[Ints] = []
    path = np.empty(0, dtype=np.int64)
    start = 0
    for sequence, count in zip(sequences, num_new, strict=True):
        kept = len(sequence) - count
        # Nodes of the last path that the new sequence does not share have complete subtrees.
        ends[path[kept:]] = start
        path = np.concatenate([path[:kept], np.arange(start, start + count)])
        paths.append(path)
        start += count
    ends[path] = start
    return PrefixTree(
        tokens=np.concatenate([s[len(s) - n :] for s, n in zip(sequences, num_new, strict=True)]),
        depths=np.concatenate(
            [np.arange(len(s) - n, len(s)) for s, n in zip(sequences, num_new, strict=True)]
        ),
        ends=ends,
        paths=tuple(paths),
    )


def row_cost(num_tokens: Ints, hidden_size: int) -> NDArray[np.float64]:
    """The cost of computing rows of these widths, in units of one token without attention.

    A layer spends about 24·H² operations on a token and 4·H on each token that it attends to, so
    that attention costs as much as everything else at 6·H tokens (the tiny model: 768, measured as
    700 to 960 on a CPU).
    """
    cost: NDArray[np.float64] = num_tokens + num_tokens**2 / (6 * hidden_size)
    return cost


def cut(lengths: Ints, shared: Ints, *, max_nodes: int, hidden_size: int) -> list[slice]:
    """Divide sequences in lexicographic order into the runs that are cheapest to compute as trees.

    A cut computes the shared prefix twice, but saves the attention between its two sides.

    Args:
        lengths: [S] tokens of each sequence.
        shared: [S] see `common_prefixes`.
        max_nodes: The most nodes of a run; a longer sequence is a run of its own.
        hidden_size: The model's, see `row_cost`.
    """
    # Nodes of the run i..j are new[j] - new[i] + lengths[i], where new[j] counts 1..j.
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


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Trees side by side in rows of equal width."""

    rows: list[list[int]]
    """For each row, the indices of its trees."""
    cost: float
    """See `row_cost`, padding included."""


def arrange(sizes: Sequence[int], *, max_tokens: int, hidden_size: int) -> Layout:
    """Lay trees side by side in the cheapest number of rows of equal width, padding included.

    Args:
        sizes: Number of nodes of each tree, in descending order.
        max_tokens: The most rows × width; a single row of all trees may exceed it.
        hidden_size: The model's, see `row_cost`.
    """
    best, lowest = [list(range(len(sizes)))], np.inf
    for num_rows in range(1, len(sizes) + 1):
        rows: list[list[int]] = [[] for _ in range(num_rows)]
        shortest = [(0, row) for row in range(num_rows)]
        for i, size in enumerate(sizes):
            # The largest first, each into the shortest row, gives rows of about equal width.
            width, row = shortest[0]
            rows[row].append(i)
            heapreplace(shortest, (width + size, row))
        width = max(shortest)[0]
        cost = row_cost(np.full(num_rows, width), hidden_size).sum()
        if cost < lowest and (num_rows == 1 or num_rows * width <= max_tokens):
            best, lowest = rows, cost
        if width == sizes[0]:
            break  # More rows would be no narrower.
    return Layout(rows=best, cost=float(lowest))


def shard_budget(sizes: Iterable[int], max_tokens: int, num_shards: int) -> int:
    """The most tokens of a micro-batch where micro-batches are divided into shards: no more than a share.

    Args:
        sizes: Number of nodes of each tree.
        max_tokens: The most tokens of any micro-batch.
        num_shards: At least 1.
    """
    return min(max_tokens, math.ceil(sum(sizes) / num_shards))


def pack(sizes: Sequence[int], *, max_tokens: int, hidden_size: int) -> list[list[list[int]]]:
    """Divide trees into micro-batches, and lay each one's out in rows, at the lowest cost.

    Trees that fill the budget to the last token leave room for few, long rows only, in which each token is
    computed against every other. With some more micro-batches, at most `_MORE_MICRO_BATCHES` times as many as
    the budget asks for, there is room for many short rows.

    Args:
        sizes: Number of nodes of each tree, in descending order.
        max_tokens: The most rows × width; a tree that is larger gets a micro-batch of its own.
        hidden_size: The model's, see `row_cost`.

    Returns:
        For each micro-batch its rows, each the indices of its trees.
    """
    best: list[list[list[int]]] = []
    fewest, lowest = 0, np.inf
    for share in _SHARES:
        parts = _parts(sizes, max_nodes=round(share * max_tokens))
        fewest = fewest or len(parts)
        if len(parts) > _MORE_MICRO_BATCHES * fewest:
            break
        layouts = [
            arrange([sizes[i] for i in part], max_tokens=max_tokens, hidden_size=hidden_size)
            for part in parts
        ]
        cost = sum(layout.cost for layout in layouts)
        if cost < lowest:
            lowest = cost
            best = [
                [[part[i] for i in row] for row in layout.rows]
                for part, layout in zip(parts, layouts, strict=True)
            ]
    return best


def _parts(sizes: Sequence[int], *, max_nodes: int) -> list[range]:
    """Runs of trees of at most so many nodes together, as long as possible; one tree may have more."""
    parts: list[range] = []
    start = num_nodes = 0
    for i, size in enumerate(sizes):
        if i > start and num_nodes + size > max_nodes:
            parts.append(range(start, i))
            start, num_nodes = i, 0
        num_nodes += size
    return [*parts, range(start, len(sizes))] if sizes else []
