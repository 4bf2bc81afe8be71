"""Rows of micro-batches: every tree once, within the budget, and at no higher cost than the plain ways."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.model.batches.row_packing import arrange, pack, pack_apart, row_cost

HIDDEN_SIZE = 128


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=12).map(lambda x: sorted(x, reverse=True)),
    st.integers(0, 2000),
)
def test_rows_hold_every_tree_once_and_cost_no_more_than_one_row_or_one_each(
    sizes: list[int], room: int
) -> None:
    layout = arrange(sizes, max_tokens=sum(sizes) + room, hidden_size=HIDDEN_SIZE)
    rows = layout.rows

    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    width = max(sum(sizes[i] for i in row) for row in rows)
    assert len(rows) * width <= sum(sizes) + room
    cost = row_cost(np.full(len(rows), width), HIDDEN_SIZE).sum()
    assert layout.cost == pytest.approx(cost)
    assert cost <= row_cost(np.array([sum(sizes)]), HIDDEN_SIZE).sum()
    if len(sizes) * sizes[0] <= sum(sizes) + room:
        assert cost <= row_cost(np.full(len(sizes), sizes[0]), HIDDEN_SIZE).sum()


def test_rows_are_even_where_they_can_be() -> None:
    rows = arrange([400, 300, 100], max_tokens=1000, hidden_size=HIDDEN_SIZE).rows
    assert [sorted(row) for row in rows] == [[0], [1, 2]]


def budget_first(sizes: list[int], max_tokens: int) -> list[list[int]]:
    """Micro-batches filled one after the other, each with as many trees as fit."""
    parts: list[list[int]] = [[]]
    for i, size in enumerate(sizes):
        if parts[-1] and sum(sizes[j] for j in parts[-1]) + size > max_tokens:
            parts.append([])
        parts[-1].append(i)
    return parts


def widths(packed: list[list[list[int]]], sizes: list[int]) -> list[tuple[int, int]]:
    """Each micro-batch's rows and width."""
    return [(len(rows), max(sum(sizes[i] for i in row) for row in rows)) for rows in packed]


def total_cost(shapes: list[tuple[int, int]]) -> float:
    return float(sum(row_cost(np.full(rows, width), HIDDEN_SIZE).sum() for rows, width in shapes))


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=40).map(lambda x: sorted(x, reverse=True)),
    st.integers(1, 3000),
)
def test_micro_batches_hold_every_tree_once_within_the_budget_and_cost_no_more_than_full_ones(
    sizes: list[int], max_tokens: int
) -> None:
    packed = pack(sizes, max_tokens=max_tokens, hidden_size=HIDDEN_SIZE)
    full = budget_first(sizes, max_tokens)

    assert sorted(i for rows in packed for row in rows for i in row) == list(range(len(sizes)))
    for rows, (num_rows, width) in zip(packed, widths(packed, sizes), strict=True):
        assert num_rows * width <= max_tokens or sum(map(len, rows)) == 1
    assert len(packed) <= 1.5 * len(full)
    before = [
        arrange([sizes[i] for i in part], max_tokens=max_tokens, hidden_size=HIDDEN_SIZE)
        for part in full
    ]
    cost = total_cost(widths(packed, sizes))
    assert cost <= sum(layout.cost for layout in before) * (1 + 1e-9)


def test_some_more_micro_batches_spare_attention_that_full_ones_would_compute() -> None:
    # Trees of a preset's length that fill two micro-batches to the last tokens, in two long rows each.
    rng = np.random.default_rng(0)
    sizes = sorted(rng.integers(500, 1000, 40).tolist(), reverse=True)
    packed = pack(sizes, max_tokens=16_384, hidden_size=1536)
    attention = sum(rows * width**2 for rows, width in widths(packed, sizes))
    full = [
        arrange([sizes[i] for i in part], max_tokens=16_384, hidden_size=1536).rows
        for part in budget_first(sizes, 16_384)
    ]
    before = sum(rows * width**2 for rows, width in widths(full, sizes))
    assert (len(packed), len(full)) == (3, 2)
    assert attention < 0.5 * before


def test_nothing_makes_no_micro_batch() -> None:
    assert pack([], max_tokens=10, hidden_size=HIDDEN_SIZE) == []
    assert pack_apart([], max_tokens=10) == []


def test_trees_apart_fill_the_budget_by_the_widest_of_a_micro_batch() -> None:
    assert pack_apart([7, 5, 5, 4, 2, 2, 1], max_tokens=10) == [
        [[0]],
        [[1], [2]],
        [[3], [4]],
        [[5], [6]],
    ]
    assert pack_apart([30, 3, 3, 3], max_tokens=9) == [[[0]], [[1], [2], [3]]]
