"""Decides which trees lie side by side in the rows of micro-batches, by the cost of computing them."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace

import numpy as np
from numpy.typing import NDArray

from trainer.model.batches.prefix_tree import Ints

_MORE_MICRO_BATCHES = 1.5
"""Cheaper rows may take at most this many times as many micro-batches."""
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)
"""The shares of the budget, tried in turn, that a micro-batch's nodes may fill; the rest is room for shorter rows and
their padding."""


def row_cost(num_tokens: Ints, hidden_size: int) -> NDArray[np.float64]:
    """The cost of computing rows of these widths, in units of one token without attention.

    A layer spends about 24·H² operations on a token and 4·H on each token that it attends to, so
    that attention costs as much as everything else at 6·H tokens (for the tiny model this is 768; 700 to
    960 was measured on a CPU).
    """
    cost: NDArray[np.float64] = num_tokens + num_tokens**2 / (6 * hidden_size)
    return cost


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
        hidden_size: The model's hidden size; see `row_cost`.
    """
    best, lowest = [list(range(len(sizes)))], np.inf
    for num_rows in range(1, len(sizes) + 1):
        rows: list[list[int]] = [[] for _ in range(num_rows)]
        shortest = [(0, row) for row in range(num_rows)]
        for i, size in enumerate(sizes):
            # From the largest tree to the smallest, each into the shortest row: rows get about equal widths.
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


def pack(sizes: Sequence[int], *, max_tokens: int, hidden_size: int) -> list[list[list[int]]]:
    """Divide trees into micro-batches, and lay each micro-batch out in rows, at the lowest cost.

    If trees fill the budget to the last token, there is room only for a few long rows, in which each token is
    computed against every other. With some more micro-batches, at most `_MORE_MICRO_BATCHES` times as many as
    the budget asks for, there is room for many short rows.

    Args:
        sizes: Number of nodes of each tree, in descending order.
        max_tokens: The most rows × width; a tree that is larger gets a micro-batch of its own.
        hidden_size: The model's hidden size; see `row_cost`.

    Returns:
        For each micro-batch its rows; each row is a list of its trees' indices.
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


def pack_apart(sizes: Sequence[int], *, max_tokens: int) -> list[list[list[int]]]:
    """Divide trees into micro-batches in which each tree has a row of its own; the largest trees come first.

    Args:
        sizes: Number of nodes of each tree, in descending order.
        max_tokens: The most rows × width; a tree that is larger gets a micro-batch of its own.

    Returns:
        For each micro-batch its rows; each row has the index of one tree.
    """
    packed: list[list[list[int]]] = []
    for i in range(len(sizes)):
        # The first of a micro-batch is its widest.
        if packed and (len(packed[-1]) + 1) * sizes[packed[-1][0][0]] <= max_tokens:
            packed[-1].append([i])
        else:
            packed.append([[i]])
    return packed


def _parts(sizes: Sequence[int], *, max_nodes: int) -> list[range]:
    """Runs of trees, as long as possible, with at most ``max_nodes`` nodes together; a single tree may have more."""
    parts: list[range] = []
    start = num_nodes = 0
    for i, size in enumerate(sizes):
        if i > start and num_nodes + size > max_nodes:
            parts.append(range(start, i))
            start, num_nodes = i, 0
        num_nodes += size
    return [*parts, range(start, len(sizes))] if sizes else []
