"""What a simulated step generates and trains on."""

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a step generates and trains on."""

    questions: int
    per_mini_batch: int
    """Questions per optimizer step."""
    arms: int = 8
    prompt_tokens: int
    mean_tokens: float
    """Mean length of a completion; lengths are lognormal."""
    spread: float
    """Standard deviation of the lengths divided by their mean."""
    max_tokens: int
    token_budget: int
    hidden_size: int
    measured: tuple[tuple[int, ...], ...] = ()
    """Lengths of groups to draw from, instead of a lognormal distribution."""

    def batch(self, number: int) -> list[list[int]]:
        """Token counts of the completions in each group of a step; the same number gives the same counts."""
        rng = random.Random(number)
        if self.measured:
            return [list(rng.choice(self.measured)) for _ in range(self.questions)]
        variance = math.log(1 + self.spread**2)
        mu = math.log(self.mean_tokens) - variance / 2
        return [
            [self._drawn(rng, mu, math.sqrt(variance)) for _ in range(self.arms)]
            for _ in range(self.questions)
        ]

    def _drawn(self, rng: random.Random, mu: float, sigma: float) -> int:
        return min(self.max_tokens, max(1, round(rng.lognormvariate(mu, sigma))))
