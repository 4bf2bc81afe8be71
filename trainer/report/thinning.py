"""Averages a long run's metrics, so that there are no more points than a chart can show.

Input: rows of ``metrics.jsonl``. Output: fewer rows.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise


def thinned(rows: Sequence[Mapping[str, float]], most: int) -> list[Mapping[str, float]]:
    """At most ``most`` rows, each the mean of consecutive steps; its ``step`` and ``time`` are the last of them.

    A metric that only some of these steps have is averaged over those that have it.

    Args:
        rows: One row per step, oldest first.
        most: Largest number of rows to return; at least 1.
    """
    if len(rows) <= most:
        return list(rows)
    ends = [len(rows) * i // most for i in range(most + 1)]
    return [_mean_row(rows[first:end]) for first, end in pairwise(ends)]


def _mean_row(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for key, value in row.items():
            found[key].append(value)
    return {
        key: values[-1] if key in ("step", "time") else statistics.fmean(values)
        for key, values in found.items()
    }
