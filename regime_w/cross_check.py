"""The cross-check of two families under two settings: CHSH's four contexts, as a score.

Families W and M are the parties. The settings are the halves of each family's arms (cool and warm), or the
question and its counterfactual. The test is symmetrised over the position of its minus sign: with the
conventional position, an arm that always gives the same answer would score full marks, and a single
disagreeing context would go unnoticed.
Source: Clauser, Horne, Shimony and Holt 1969; the score is our own.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from regime_w.arms import family_of


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """Result of the cross-check."""

    score: float | None
    """In [0, 1]; None if the cross-check abstains."""
    chsh: tuple[float, float, float, float] | None
    """``S_k = ΣE - 2E_k``, logged and never rewarded; None without all four contexts."""
    abstention: str | None
    """Why there is no score."""


def cross_check(
    outcomes: Sequence[str | None], families: Sequence[str], settings: Sequence[int]
) -> CrossCheck:
    """Scores how well two families agree in all contexts of their settings.

    ``p_xy`` is the fraction of pairs (an arm of W under setting x, one of M under y) whose outcomes
    agree, ``E_xy = 2 p_xy - 1``, and ``S_k = ΣE - 2 E_k`` with the minus sign at each of the four
    contexts in turn. ``s_mean`` is the mean of p, ``s_worst = clip((min_k S_k + 2)/4, 0, 1)``,
    and the score ``(s_mean + s_worst)/2``. With fewer than four contexts ``s_worst`` is min p.
    Pairs are counted by distinct outcomes, so time is linear.

    Args:
        outcomes: One per arm and setting; None agrees with nothing.
        families: The family of each outcome's arm.
        settings: The setting of each outcome, 0 or 1.
    """
    names = list(dict.fromkeys(families))
    if len(names) != 2:
        return CrossCheck(None, None, f"needs two families, not {len(names)}")
    counts: dict[tuple[str, int], Counter[str | None]] = {}
    for outcome, family, setting in zip(outcomes, families, settings, strict=True):
        counts.setdefault((family, setting), Counter())[outcome] += 1
    rates = [
        _agreement(counts[names[0], x], counts[names[1], y])
        for x in (0, 1)
        for y in (0, 1)
        if (names[0], x) in counts and (names[1], y) in counts
    ]
    mean = sum(rates) / len(rates)
    if len(rates) < 4:
        return CrossCheck((mean + min(rates)) / 2, None, None)
    correlations = [2 * rate - 1 for rate in rates]
    total = sum(correlations)
    s_1, s_2, s_3, s_4 = (total - 2 * correlation for correlation in correlations)
    worst = min(1.0, max(0.0, (min(s_1, s_2, s_3, s_4) + 2) / 4))
    return CrossCheck((mean + worst) / 2, (s_1, s_2, s_3, s_4), None)


def settings_of(names: Sequence[str]) -> dict[str, int]:
    """For each arm 0 or 1: the first or second half of its family's arms by their numbers."""
    by_family: dict[str, list[str]] = {}
    for name in sorted(set(names), key=lambda name: (len(name), name)):
        by_family.setdefault(family_of(name), []).append(name)
    return {
        name: int(2 * index >= len(family) and index > 0)
        for family in by_family.values()
        for index, name in enumerate(family)
    }


def _agreement(ours: Counter[str | None], theirs: Counter[str | None]) -> float:
    """The fraction of pairs, one outcome of ours and one of theirs, that agree."""
    agreeing = sum(
        count * theirs[outcome] for outcome, count in ours.items() if outcome is not None
    )
    return agreeing / (ours.total() * theirs.total())
