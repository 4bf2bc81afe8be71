"""How well an arm's working holds together, by itself and with the other arms'.

Formulas after ROSCOE's and ReasonEval's questions (is each step right, does it lead to the answer,
is it needed), answered by exact arithmetic instead of a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt

from regime_w.arithmetic import Exact
from regime_w.equations import Equation, parse_equations


@dataclass(frozen=True, slots=True)
class ReasoningPath:
    """The working of one arm."""

    quality: float
    """See `read_path`."""
    results: frozenset[Exact]
    """What its true equations come to."""
    num_equations: int
    """Different equations."""
    num_true: int
    """How many of them hold."""


def read_path(reasoning: str, answer: str | None) -> ReasoningPath:
    """Reads the working of an arm.

    ``quality = V · (1 + C)/2 · min(1, 2U)`` over its n different equations: V is the share of
    them that hold, C is 1 if a true one comes to the answer (else 0), U is the share that the
    answer was computed from. Checking a result again is not padding: only where less than half of
    the equations lead to the answer do the others cost. Without an equation quality is 0: no work
    was shown. Equations that change nothing (``18 + 0 = 18``,
    ``18 * 1 = 18``) are not counted.

    Args:
        reasoning: The arm's text.
        answer: Its canonical answer, None where it gave none.
    """
    equations = list(dict.fromkeys(e for e in parse_equations(reasoning) if not _is_idle(e)))
    if not equations:
        return ReasoningPath(quality=0.0, results=frozenset(), num_equations=0, num_true=0)
    true = [equation for equation in equations if equation.holds]
    results = frozenset(equation.result for equation in true)
    goal = None if answer is None else Fraction(answer)
    closes = goal in results
    # Without closure the last result stands in: a last step in words leaves the others useful.
    needed = {goal if closes else equations[-1].result}
    num_used = 0
    for equation in reversed(equations):
        if equation.result in needed:
            num_used += 1
            needed.update(equation.operands)
    n = len(equations)
    quality = len(true) / n * (1.0 if closes else 0.5) * min(1.0, 2 * num_used / n)
    return ReasoningPath(quality=quality, results=results, num_equations=n, num_true=len(true))


def _is_idle(equation: Equation) -> bool:
    """Whether a true equation gives one of two operands back because the other is 0 or 1."""
    if not equation.holds or len(equation.operands) != 2:
        return False
    left, right = equation.operands
    return (equation.result == left and right in (0, 1)) or (
        equation.result == right and left in (0, 1)
    )


def path_scores(paths: Sequence[ReasoningPath], families: Sequence[str]) -> tuple[float, ...]:
    """Scores each arm's path by its own quality and by what it shares with the other families'.

    ``path_i = q_i (1 + o_i)/2`` with the overlap ``o_i = Σ_j q_j cos_ij / Σ_j q_j`` over the arms j
    of other families (over all other arms where there is one family) and ``cos_ij`` =
    |R_i ∩ R_j| / √(|R_i| |R_j|) over the sets of true results. Two valid routes with nothing in
    common still earn half; where no peer shows any working there is nothing to compare, and
    path_i = q_i. Sums over peers are taken as sums of vectors: time is linear in the arms.

    Args:
        paths: One per arm.
        families: The family of each arm.

    Returns:
        One score in [0, 1] per arm.
    """
    several = len(set(families)) > 1
    everybody = _Working.of(paths)
    by_family = {
        family: _Working.of([p for p, f in zip(paths, families, strict=True) if f == family])
        for family in dict.fromkeys(families)
    }
    scores = []
    for path, family in zip(paths, families, strict=True):
        own_side = by_family[family] if several else _Working.of([path])
        peers_quality = everybody.quality - own_side.quality
        # Sums of floats leave dust where nothing is left; the least real quality is far above it.
        if peers_quality < 1e-9 or not path.results:
            scores.append(path.quality)
            continue
        shared = sum(everybody.by_result[r] - own_side.by_result.get(r, 0.0) for r in path.results)
        overlap = shared / sqrt(len(path.results)) / peers_quality
        scores.append(path.quality * (1 + min(1.0, max(0.0, overlap))) / 2)
    return tuple(scores)


@dataclass(frozen=True, slots=True)
class _Working:
    """What several paths add up to, so that sums over pairs need no pairs."""

    quality: float
    by_result: dict[Exact, float]
    """Of each result the sum of q / √|R| over the paths that have it."""

    @classmethod
    def of(cls, paths: Sequence[ReasoningPath]) -> "_Working":
        by_result: dict[Exact, float] = {}
        for path in paths:
            for result in path.results:
                share = path.quality / sqrt(len(path.results))
                by_result[result] = by_result.get(result, 0.0) + share
        return cls(sum(path.quality for path in paths), by_result)
