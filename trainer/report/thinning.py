"""A long run's metrics as no more points than a chart can show.

Enters: rows of ``metrics.jsonl``. Leaves: fewer rows.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise


def thinned(rows: Sequence[Mapping[str, float]], most: int) -> list[Mapping[str, float]]:
    """At most so many rows, each the mean of some steps; its ``step`` is their last.

    A metric that only some of the steps have is the mean of those.

    Args:
        rows: A step each, oldest first.
        most: At least 1.
    """
    if len(rows) <= most:
        return list(rows)
    ends = [len(rows) * i // most for i in range(most + 1)]
    return [_together(rows[first:end]) for first, end in pairwise(ends)]


def _together(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for key, value in row.items():
            found[key].append(value)
    return {
        key: values[-1] if key == "step" else statistics.fmean(values)
        for key, values in found.items()
    }
