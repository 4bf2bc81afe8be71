"""KL between two policies from the tokens that one of them sampled, and control of its penalty."""

from dataclasses import dataclass

from torch import Tensor

from trainer.config.sections import KLEstimator

# exp overflows float32 at 88.7. e^20 is far beyond every clip and bound, where the exact value of a
# ratio no longer matters.
MAX_LOG_RATIO = 20.0


def kl_estimate(logprobs: Tensor, other_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Each token's estimate of KL(π ‖ other), for tokens that π sampled; of the inputs' shape.

    With ``d = log π - log other`` (Schulman 2020, "Approximating KL divergence"):

    - k1 = ``d``: unbiased, of either sign. Used as a reward, its policy gradient is the KL's.
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

    ``coef *= 1 + clip(kl / target - 1, ±0.2) / horizon_steps``, or ``· num_completions / horizon``. It stays between
    its start divided by `MAX_FACTOR` and its start times it. A KL that stays above the target would let it grow until
    the penalty outweighs every reward; one that stays below would let it shrink to nothing, and then it would take
    as many steps to come back.
    """

    coef: float
    target: float
    horizon: int
    """About how many completions it takes to correct an error; counts where `horizon_steps` is None."""
    horizon_steps: float | None = None
    """About how many steps it takes: 1/K of the paper, whose K is 0.1."""

    def __post_init__(self) -> None:
        """Keep where the coefficient starts."""
        self._lowest, self._highest = self.coef / MAX_FACTOR, self.coef * MAX_FACTOR

    def update(self, kl: float, num_completions: int) -> None:
        """Adjust the coefficient after a step whose mean KL per completion was ``kl`` nats."""
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        share = num_completions / self.horizon
        if self.horizon_steps is not None:
            share = 1.0 / self.horizon_steps
        coef = self.coef * (1.0 + error * min(1.0, share))
        self.coef = min(max(coef, self._lowest), self._highest)
