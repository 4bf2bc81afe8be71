"""Arms as families: eight lines over each other show less than two, with the arms behind them.

Enters: metrics named after arms. Leaves: the means of families, and which arms belong to which.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping

from regime_w.arms import family_of

_PREFIXES = ("arm/", "arm_correct/")
_FAMILY = "family/"
"""Before the name of a family's mean, which no metric of a run begins with."""


def family_means(row: Mapping[str, float]) -> dict[str, float]:
    """The mean over each family's arms that a step's metrics have, as ``family/arm/wolfram``."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for key, value in row.items():
        for prefix in _PREFIXES:
            if key.startswith(prefix):
                found[_mean_of(prefix, key.removeprefix(prefix))].append(value)
    return {key: statistics.fmean(values) for key, values in found.items()}


def by_family(
    arms: Mapping[str, str],
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The curves of families, and the arms behind each.

    Args:
        arms: Metrics of arms to the arms' names.

    Returns:
        Metrics (those of `family_means`) to labels, and each of these metrics to the metrics of its arms with their labels. An arm
        that is alone in its family is its own curve.
    """
    members: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for key, name in arms.items():
        members[_mean_of(key.removesuffix(name), name)][key] = name
    curves: dict[str, str] = {}
    for mean, of_family in members.items():
        if len(of_family) == 1:
            curves |= of_family
        else:
            family = family_of(next(iter(of_family.values())))
            curves[mean] = f"{family}, mean of {len(of_family)} arms"
    return curves, {mean: of for mean, of in members.items() if mean in curves}


def _mean_of(prefix: str, arm: str) -> str:
    return f"{_FAMILY}{prefix}{family_of(arm)}"
