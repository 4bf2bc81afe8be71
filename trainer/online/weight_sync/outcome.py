"""How well completions of a version fit what was pushed, and what a server may have served instead.

`judge` weighs each alternative against what was pushed. `SyncOutcome` holds the result and knows the error rates at
which an alternative is suspected and at which the proof fails.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from trainer.io.metrics_file import Metrics
from trainer.model.batches.sample import Sample
from trainer.online.weight_sync.alternatives import PUSHED
from trainer.online.weight_sync.evidence import DistinctTokens, Noise, evidence, noise
from trainer.online.weight_sync.mismatch import Mismatch

FALSE_STOPS_A_PUSH = 1e-5
"""The largest allowed chance that a healthy push stops the run."""
_FALSE_ALARMS_A_PUSH = 0.02
"""The largest allowed chance that a healthy push is checked again with more tokens."""
_FEW_COMPLETIONS = 0.8
"""If there are too few completions to reach the z of `_FALSE_ALARMS_A_PUSH`, this share of the largest possible z
raises an alarm."""


@dataclass(frozen=True, kw_only=True)
class SyncOutcome:
    """How well the completions of a version fit what was pushed, and how well they fit each alternative."""

    version: int
    mismatch: Mismatch
    """How far the server's logprobs are from the trainer's with the pushed adapter."""
    noise: Noise
    z: Mapping[str, float]
    """For each alternative, how much better it fits than what was pushed; see `evidence`."""
    num_completions: int
    """How many completions the distinct tokens are attributed to."""

    def threshold(self, false_alarms: float) -> float:
        """The z that, on a healthy server, some alternative reaches with at most this chance."""
        return math.sqrt(2 * math.log(max(1, len(self.z)) / false_alarms))

    @property
    def failed(self) -> dict[str, float]:
        """The alternatives that fit better than chance allows."""
        limit = self.threshold(FALSE_STOPS_A_PUSH)
        return {name: z for name, z in self.z.items() if z >= limit}

    @property
    def suspected(self) -> dict[str, float]:
        """The alternatives that need more tokens to be ruled out."""
        largest = math.sqrt(self.num_completions)
        limit = min(self.threshold(_FALSE_ALARMS_A_PUSH), _FEW_COMPLETIONS * largest)
        return {name: z for name, z in self.z.items() if z >= limit > 0}

    @property
    def unprovable(self) -> list[str]:
        """The alternatives that cannot be ruled out: what was pushed does not fit clearly better."""
        limit = self.threshold(_FALSE_ALARMS_A_PUSH)
        return [name for name, z in self.z.items() if z > -limit]

    @property
    def metrics(self) -> Metrics:
        """The metrics under ``sync/`` names; those about alternatives only if alternatives were computed."""
        metrics: Metrics = {
            "sync/version": self.version,
            "sync/mismatch": self.mismatch.mean,
            "sync/mismatch_max": self.mismatch.max,
            "sync/noise": self.noise.per_logit,
        }
        if self.z:
            metrics["sync/worst_z"] = max(self.z.values())
            metrics["sync/unprovable"] = len(self.unprovable)
        return metrics


def judge(
    version: int, samples: Sequence[Sample], explained: Mapping[str, Sequence[Tensor]]
) -> SyncOutcome:
    """Weigh every alternative against what was pushed.

    Args:
        version: The version that the server was asked for.
        samples: Its completions.
        explained: The trainer's logprobs under `PUSHED` and under every alternative, [C] for each completion.
    """
    tokens = DistinctTokens.of(samples)
    pushed = tokens.chosen(explained[PUSHED])
    return SyncOutcome(
        version=version,
        mismatch=Mismatch.between(tokens.server, pushed),
        noise=noise(tokens, pushed),
        z={
            name: evidence(tokens, pushed, tokens.chosen(logprobs))
            for name, logprobs in explained.items()
            if name != PUSHED
        },
        num_completions=tokens.num_completions,
    )
