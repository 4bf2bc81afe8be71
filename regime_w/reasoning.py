"""Scores how coherent an arm's reasoning is, by itself and with the other arms'.

The formulas ask ROSCOE's and ReasonEval's questions (is each step right, does it lead to the answer,
is it needed) and answer them by exact arithmetic instead of a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt

from regime_w.numbers.arithmetic import Exact
from regime_w.worked_steps.parsing import Equation, parse_equations


@dataclass(frozen=True, slots=True)
class ReasoningPath:
    """The reasoning of one arm, as its equations."""

    quality: float
    """See `read_path`."""
    results: frozenset[Exact]
    """The results of its true equations."""
    num_equations: int
    """How many distinct equations there are."""
    num_true: int
    """How many of them hold."""


def read_path(reasoning: str, answer: str | None) -> ReasoningPath:
    """Reads the reasoning of an arm.

    ``quality = V · (1 + C)/2 · min(1, 2U)`` over its n distinct equations: V is the fraction
    that hold, C is 1 if the result of a true one is the answer (else 0), U is the fraction from which the
    answer was computed. Checking a result again costs nothing: the other equations reduce quality only
    if fewer than half of all lead to the answer. Without equations quality is 0: no work was shown.
    Equations that change nothing (``18 + 0 = 18``, ``18 * 1 * 1 = 18``) are not counted.

    Args:
        reasoning: The arm's text.
        answer: Its canonical answer; None if it gave none.
    """
    equations = list(dict.fromkeys(e for e in parse_equations(reasoning) if not _is_idle(e)))
    if not equations:
        return ReasoningPath(quality=0.0, results=frozenset(), num_equations=0, num_true=0)
    true = [equation for equation in equations if equation.holds]
    results = frozenset(equation.result for equation in true)
    goal = None if answer is None else Fraction(answer)
    closes = goal in results
    # If no result is the answer, the last result takes its place: the last step may have been made in words.
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
    """Whether a true equation returns one of its operands, and all others are 0 or 1: ``18 + 1 - 1 = 18``."""
    if not equation.holds or equation.result not in equation.operands:
        return False
    others = list(equation.operands)
    others.remove(equation.result)
    return all(operand in (0, 1) for operand in others)


def path_scores(paths: Sequence[ReasoningPath], families: Sequence[str]) -> tuple[float, ...]:
    """Scores each arm's path by its own quality and by what it shares with the other families'.

    ``path_i = q_i (1 + o_i)/2`` with the overlap ``o_i = Σ_j q_j cos_ij / Σ_j q_j`` over the arms j
    of other families (over all other arms if there is one family) and ``cos_ij`` =
    |R_i ∩ R_j| / √(|R_i| |R_j|) over the sets of true results. Two valid routes with nothing in
    common still earn half; if no peer shows any equations there is nothing to compare, and
    path_i = q_i. Sums over peers are computed as sums of vectors: time is linear in the arms.

    Args:
        paths: One per arm.
        families: The family of each arm.

    Returns:
        One score in [0, 1] per arm.
    """
    several = len(set(families)) > 1
    everybody = _PathSums.of(paths)
    by_family = {
        family: _PathSums.of([p for p, f in zip(paths, families, strict=True) if f == family])
        for family in dict.fromkeys(families)
    }
    scores = []
    for path, family in zip(paths, families, strict=True):
        own_side = by_family[family] if several else _PathSums.of([path])
        peers_quality = everybody.quality - own_side.quality
        # The difference of float sums may be a rounding error; real qualities are far above this bound.
        if peers_quality < 1e-9 or not path.results:
            scores.append(path.quality)
            continue
        shared = sum(everybody.by_result[r] - own_side.by_result.get(r, 0.0) for r in path.results)
        overlap = shared / sqrt(len(path.results)) / peers_quality
        scores.append(path.quality * (1 + min(1.0, max(0.0, overlap))) / 2)
    return tuple(scores)


@dataclass(frozen=True, slots=True)
class _PathSums:
    """Sums over several paths, so that sums over pairs need no loop over pairs."""

    quality: float
    by_result: dict[Exact, float]
    """For each result the sum of q / √|R| over the paths that have it."""

    @classmethod
    def of(cls, paths: Sequence[ReasoningPath]) -> "_PathSums":
        by_result: dict[Exact, float] = {}
        for path in paths:
            for result in path.results:
                weight = path.quality / sqrt(len(path.results))
                by_result[result] = by_result.get(result, 0.0) + weight
        return cls(sum(path.quality for path in paths), by_result)
