"""Prefix trees against the plain set of prefixes."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.model.batches.prefix_tree import common_prefixes, plant

# Few tokens, so that much is shared.
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=10)


def arrays(sequences: list[list[int]]) -> list[np.ndarray]:
    return [np.array(sequence, dtype=np.int64) for sequence in sorted(sequences)]


@given(SEQUENCES)
def test_a_node_is_a_distinct_prefix_and_sees_its_own_prefixes(sequences: list[list[int]]) -> None:
    ordered = arrays(sequences)
    tree = plant(ordered, common_prefixes(ordered))

    prefixes = {tuple(s[: n + 1]) for s in sequences for n in range(len(s))}
    assert len(tree.tokens) == len(prefixes)
    for sequence, path in zip(ordered, tree.paths, strict=True):
        assert tree.tokens[path].tolist() == sequence.tolist()
        assert tree.depths[path].tolist() == list(range(len(sequence)))
        for node in path:
            seen = [j for j in range(len(tree.tokens)) if j <= node < tree.ends[j]]
            assert seen == path[: tree.depths[node] + 1].tolist()


@given(SEQUENCES)
def test_common_prefixes_are_those_of_neighbours(sequences: list[list[int]]) -> None:
    ordered = arrays(sequences)
    expected = [0]
    for one, other in pairwise(ordered):
        n = 0
        while n < min(len(one), len(other)) and one[n] == other[n]:
            n += 1
        expected.append(n)
    assert common_prefixes(ordered).tolist() == expected
