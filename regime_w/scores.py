"""Coherence scores of a group of arms, each in [0, 1], or None if the score abstains.

The formulas are the original recipe's (section 1.2) to the letter, on canonical answers, with one
change: an arm without an answer (``None``) agrees with nothing. None of these scores abstains.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from regime_w.arms import ArmOutput, read_arm_outputs
from regime_w.config import RewardConfig

ORIGINAL_S_CF = 0.5
"""The recipe's cross-check, which is the same for every group."""

_DEFAULTS = RewardConfig()


def num_pairs(count: int) -> int:
    """The number of pairs among ``count`` arms."""
    return count * (count - 1) // 2


def num_agreeing_pairs(answers: Sequence[str | None]) -> int:
    """The number of pairs of equal answers, counted by distinct answers; None agrees with nothing."""
    return sum(map(num_pairs, Counter(a for a in answers if a is not None).values()))


def s_end_for_question(answers: Sequence[str | None]) -> float:
    """Scores agreement on the final answer: the fraction of arm pairs with equal answers.

    ``s_end = sum_a C(n_a, 2) / C(n, 2)`` over the distinct answers a, each given by n_a of the n arms;
    1 for a single arm and 0 for none.

    Args:
        answers: One canonical answer per arm (see `extract_answer`), None if there is none.
    """
    num_arms = len(answers)
    if num_arms < 2:
        return float(num_arms)
    return num_agreeing_pairs(answers) / num_pairs(num_arms)


def s_path_for_question(reasonings: Sequence[str]) -> float:
    """Scores coarse path coherence: reasonings of similar length score high.

    ``s_path = 1 / (1 + var / (avg + 1e-6))`` over word counts; 0 without any word.
    """
    if not reasonings:
        return 0.0
    num_words = [len(reasoning.split()) for reasoning in reasonings]
    mean = sum(num_words) / len(num_words)
    if mean <= 0:
        return 0.0
    variance = sum((count - mean) ** 2 for count in num_words) / len(num_words)
    return 1.0 / (1.0 + variance / (mean + 1e-6))


def s_cf_for_question(arm_outputs: Sequence[ArmOutput | Mapping[str, object]]) -> float:
    """Scores the counterfactual cross-check, which in the recipe is `ORIGINAL_S_CF` for every group.

    Raises:
        ValueError: An arm output is invalid.
    """
    read_arm_outputs(arm_outputs)
    return ORIGINAL_S_CF


def s_wm_for_question(
    s_end: float | None,
    s_path: float | None,
    s_cf: float | None,
    *,
    w_end: float = _DEFAULTS.w_end,
    w_path: float = _DEFAULTS.w_path,
    w_cf: float = _DEFAULTS.w_cf,
) -> float | None:
    """Combines the scores: ``s_wm = 0.4 s_end + 0.3 s_path + 0.3 s_cf``.

    The weights, which sum to 1, are renormalised over the scores that do not abstain.

    Returns:
        The weighted mean, or None if every score with a weight abstains.
    """
    weighted = [(w_end, s_end), (w_path, s_path), (w_cf, s_cf)]
    present = [(weight, score) for weight, score in weighted if score is not None]
    total_weight = sum(weight for weight, _ in present)
    if total_weight <= 0:
        return None
    return sum(weight * score for weight, score in present) / total_weight
