"""Estimates the KL between two policies from tokens that one of them sampled, and controls the KL coefficient."""

from dataclasses import dataclass

from torch import Tensor

from trainer.config.sections import KLEstimator

# exp overflows float32 at 88.7. e^20 is far beyond every clip and bound, so that the exact value of a larger
# ratio does not matter.
MAX_LOG_RATIO = 20.0


def kl_estimate(logprobs: Tensor, other_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Each token's estimate of KL(π ‖ other), in the shape of the inputs; π sampled the tokens.

    With ``d = log π - log other`` (Schulman 2020, "Approximating KL divergence"):

    - k1 = ``d``: unbiased, of either sign. Used as a reward, its policy gradient is the gradient of the KL.
    - k2 = ``½·d²``: biased, never negative.
    - k3 = ``exp(-d) - 1 + d``: unbiased, never negative.
    """
    difference = logprobs - other_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    return (-difference).clamp(max=MAX_LOG_RATIO).exp() - 1 + difference


MAX_FACTOR = 20.0
"""The adaptive coefficient stays within this factor of its start, above and below."""


@dataclass
class AdaptiveKL:
    """Proportional control of the KL coefficient towards a target (Ziegler et al. 2019, §2.2).

    ``coef *= 1 + clip(kl / target - 1, ±0.2) / horizon_steps``. The coefficient stays within a factor of `MAX_FACTOR`
    of its start. Without this bound, a KL that stays above the target would let it grow until the penalty outweighs
    every reward. A KL that stays below would let it shrink to almost nothing, and it would take as many steps to come
    back.
    """

    coef: float
    target: float
    horizon_steps: float
    """About how many steps it takes to correct an error: 1/K in the paper, where K is 0.1."""

    def __post_init__(self) -> None:
        """Fix the bounds of the coefficient from its start."""
        self._lowest, self._highest = self.coef / MAX_FACTOR, self.coef * MAX_FACTOR

    def update(self, kl: float) -> None:
        """Adjust the coefficient after a step whose mean KL per completion was ``kl`` nats."""
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        share = 1.0 / self.horizon_steps
        coef = self.coef * (1.0 + error * share)
        self.coef = min(max(coef, self._lowest), self._highest)
