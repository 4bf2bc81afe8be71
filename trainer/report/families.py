"""Averages arms by family: two curves are easier to read than eight, and the arms can be shown on demand.

Input: metrics named after arms. Output: the means of families, and which arms belong to which family.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping

from regime_w.arms import family_of

_PREFIXES = ("arm/", "arm_correct/")
_FAMILY = "family/"
"""Prefix of the keys of families' means; no metric of a run has it."""


def family_means(row: Mapping[str, float]) -> dict[str, float]:
    """The mean over each family's arms in a step's metrics, under keys such as ``family/arm/wolfram``."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for key, value in row.items():
        for prefix in _PREFIXES:
            if key.startswith(prefix):
                found[_mean_key(prefix, key.removeprefix(prefix))].append(value)
    return {key: statistics.fmean(values) for key, values in found.items()}


def by_family(
    arms: Mapping[str, str],
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The curves of families, and the arms behind each.

    Args:
        arms: Keys of the arms' metrics, mapped to the arms' names.

    Returns:
        The curves, as keys of `family_means` mapped to labels, and for each of these keys the metrics of its arms,
        mapped to the arms' names. An arm that is alone in its family is a curve under its own key.
    """
    members: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for key, name in arms.items():
        members[_mean_key(key.removesuffix(name), name)][key] = name
    curves: dict[str, str] = {}
    for mean, of_family in members.items():
        if len(of_family) == 1:
            curves |= of_family
        else:
            family = family_of(next(iter(of_family.values())))
            curves[mean] = f"{family}, mean of {len(of_family)} arms"
    return curves, {mean: of_family for mean, of_family in members.items() if mean in curves}


def _mean_key(prefix: str, arm: str) -> str:
    return f"{_FAMILY}{prefix}{family_of(arm)}"
