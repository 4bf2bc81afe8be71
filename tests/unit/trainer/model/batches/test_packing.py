"""Sequences divided into trees: cuts against all other cuts, and trees without branches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.model.batches.packing import cut, packed_trees
from trainer.model.batches.prefix_tree import common_prefixes, plant
from trainer.model.batches.row_packing import row_cost

HIDDEN_SIZE = 128
# Few tokens, so that much is shared.
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=10)


@given(SEQUENCES, st.integers(1, 20), st.sampled_from([1, 40]))
def test_no_other_cut_is_cheaper(sequences: list[list[int]], max_nodes: int, stretch: int) -> None:
    # Stretched, so that the attention within a run is dear too.
    stretched = sorted([t for t in s for _ in range(stretch)] for s in sequences)
    ordered = [np.array(sequence, dtype=np.int64) for sequence in stretched]
    max_nodes *= stretch
    shared = common_prefixes(ordered)

    def cost(start: int, stop: int) -> float:
        nodes = len(plant(ordered[start:stop], shared[start:stop]).tokens)
        if nodes > max_nodes and stop - start > 1:
            return float("inf")
        return float(row_cost(np.array([nodes]), HIDDEN_SIZE).sum())

    runs = cut(
        np.array([len(s) for s in ordered]), shared, max_nodes=max_nodes, hidden_size=HIDDEN_SIZE
    )

    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(len(ordered)))
    best = [0.0]
    for stop in range(1, len(ordered) + 1):
        best.append(min(best[start] + cost(start, stop) for start in range(stop)))
    assert sum(cost(run.start, run.stop) for run in runs) == pytest.approx(best[-1])


@given(SEQUENCES, st.integers(1, 40), st.integers(1, 3))
def test_without_shared_prefixes_a_row_is_one_sequence_and_its_own_beginnings(
    sequences: list[list[int]], max_tokens: int, num_shards: int
) -> None:
    packed = packed_trees(
        [tuple(sequence) for sequence in sequences],
        max_tokens=max_tokens,
        hidden_size=HIDDEN_SIZE,
        num_shards=num_shards,
        shares_prefixes=False,
    )
    rows = [row for batch in packed for row in batch]
    assert sorted(i for (placed,) in rows for i in placed.indices) == list(range(len(sequences)))
    for (placed,) in rows:
        own = max((sequences[i] for i in placed.indices), key=len)
        assert placed.tree.tokens.tolist() == own
        assert all(sequences[i] == own[: len(sequences[i])] for i in placed.indices)
    for batch in packed:
        width = max(placed.num_nodes for (placed,) in batch)
        assert len(batch) == 1 or len(batch) * width <= max_tokens
