"""Token sequences as a tree in which each common prefix is stored once.

Nodes are tokens in depth-first preorder. A subtree is then an interval, and one number per node, the
end of its subtree, gives the attention mask: token ``i`` attends to ``j`` if ``j <= i < ends[j]``. The
same holds for trees that are laid side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PrefixTree:
    """N nodes; see `plant`."""

    tokens: Ints
    """[N] token id."""
    depths: Ints
    """[N] number of tokens before it in its sequences: its position."""
    ends: Ints
    """[N] the index of the first node after its subtree."""
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
        shared: [S] length of the prefix that each shares with the one before; see
            `common_prefixes`. The first number is not read.
    """
    num_new = [len(s) - int(k) for s, k in zip(sequences, shared, strict=True)]
    num_new[0] = len(sequences[0])
    ends = np.empty(sum(num_new), dtype=np.int64)
    paths: list[Ints] = []
    path = np.empty(0, dtype=np.int64)
    start = 0
    for sequence, count in zip(sequences, num_new, strict=True):
        kept = len(sequence) - count
        # The new sequence does not share these nodes of the last path, so their subtrees are complete.
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
