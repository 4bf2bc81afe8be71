"""The weight-sync check: does the server serve, under a version's name, the weights that were pushed?

The trainer scores completions of a version with the adapter that it pushed, and with everything else that a
server may serve by mistake: the version before, the adapter scaled or left out, another temperature or top_p,
logprobs shifted by a token. An alternative that fits better than chance allows (`trainer.online.sync_evidence`)
stops the run, and so does a mismatch far over the run's own rounding noise that none of them explains.
`trainer.online.proofs` decides which completions these are.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from trainer.config.sections import TrainConfig
from trainer.console.tracking import Metrics
from trainer.errors import SyncError
from trainer.model.batch import Sample
from trainer.model.roles import PolicyRoles
from trainer.online.logprob_mismatch import Mismatch
from trainer.online.sync_alternatives import (
    PUSHED,
    Published,
    chosen_samples,
    finer,
    scaled_adapters,
    usual,
)
from trainer.online.sync_evidence import DistinctTokens, Noise, evidence, noise

FALSE_STOPS_A_PUSH = 1e-5
"""The chance that a healthy push stops the run, at most: one in 10,000 pushes would be 1e-4."""
_FALSE_ALARMS_A_PUSH = 0.02
"""The chance, at most, that a healthy push is looked at again with more tokens."""
_FEW_COMPLETIONS = 0.8
"""Where completions are too few for an alarm, this share of the largest z is one."""
MAX_TOKENS = 2048
"""Of a forward pass of the check; the largest part of them are prompts."""

_FIRST_NATS = {True: 0.005, False: 0.1}
"""Noise that is too much for the first version of a run, in nats a token: in float32, and where a side has
half precision (others' figures for bfloat16 are 0.002 to 0.04)."""
_LEAST_NATS = {True: 0.0005, False: 0.01}
"""Noise that is never too much for a later version."""
_TIMES_USUAL = 8.0
"""How many times the usual noise of the run is too much."""
_TIMES_DOUBTED = 1.5
"""How many times the usual noise makes it worth while to look for a scaled adapter, which adds to it."""
_NUM_USUAL = 16
"""The usual noise is the median of this many proven versions."""


@dataclass(frozen=True, kw_only=True)
class SyncOutcome:
    """What the completions of a version say."""

    version: int
    mismatch: Mismatch
    """Of the server from the trainer with what was pushed."""
    noise: Noise
    z: Mapping[str, float]
    """For each alternative how much better it fits than what was pushed; see `evidence`."""
    num_completions: int
    """That have a token of their own."""

    def threshold(self, false_alarms: float) -> float:
        """The z that some alternative exceeds with at most this chance where the server is healthy."""
        return math.sqrt(2 * math.log(max(1, len(self.z)) / false_alarms))

    @property
    def failed(self) -> dict[str, float]:
        """The alternatives that fit better than chance allows."""
        limit = self.threshold(FALSE_STOPS_A_PUSH)
        return {name: z for name, z in self.z.items() if z >= limit}

    @property
    def suspected(self) -> dict[str, float]:
        """The alternatives that more tokens have to decide about."""
        largest = math.sqrt(self.num_completions)
        limit = min(self.threshold(_FALSE_ALARMS_A_PUSH), _FEW_COMPLETIONS * largest)
        return {name: z for name, z in self.z.items() if z >= limit > 0}

    @property
    def unprovable(self) -> list[str]:
        """The alternatives that cannot be ruled out: what was pushed fits no better than they do."""
        limit = self.threshold(_FALSE_ALARMS_A_PUSH)
        return [name for name, z in self.z.items() if z > -limit]

    @property
    def metrics(self) -> Metrics:
        """Under ``sync/`` names."""
        return {
            "sync/version": self.version,
            "sync/mismatch": self.mismatch.mean,
            "sync/mismatch_max": self.mismatch.max,
            "sync/noise": self.noise.per_logit,
            "sync/worst_z": max(self.z.values(), default=0.0),
            "sync/unprovable": len(self.unprovable),
        }


def judge(
    version: int, samples: Sequence[Sample], explained: Mapping[str, Sequence[Tensor]]
) -> SyncOutcome:
    """Weigh every alternative against what was pushed.

    Args:
        version: That the server was asked for.
        samples: Its completions.
        explained: For `PUSHED` and every alternative the trainer's logprobs, [C] a completion.
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


class SyncCheck:
    """Holds versions against what was pushed, and knows the run's usual noise."""

    def __init__(self, config: TrainConfig, *, server_dtype: str, past: Sequence[Metrics] = ()):
        """Fix the thresholds of a run.

        Args:
            config: Of the run.
            server_dtype: What the server computes in, e.g. ``float32``.
            past: Metrics of the run's earlier steps, from which its usual noise is known.
        """
        self._exact = server_dtype == "float32" and config.policy.dtype in ("auto", server_dtype)
        self._limit = config.ppo.max_logprob_mismatch
        usual_noise = [row["sync/noise"] for row in past if "sync/noise" in row]
        self._usual_noise = deque(usual_noise, maxlen=_NUM_USUAL)

    def prove(
        self,
        samples: Sequence[Sample],
        published: Published,
        roles: PolicyRoles,
        *,
        previous: Published | None,
        older: Sequence[Published] = (),
        ask_more: Callable[[], Sequence[Sample]],
    ) -> SyncOutcome:
        """Return if a version is what was pushed; overwrites the proximal role.

        A few completions are looked at first. Only if they raise an alarm, all of them and further ones
        decide, so that no handful of tokens ends a run.

        Args:
            samples: The server's completions of the version.
            published: The version.
            roles: Score them.
            previous: The version before it, which a stale server still serves.
            older: Versions that are named if the server's logprobs fit one of them.
            ask_more: Asks the server for completions of other questions.

        Raises:
            SyncError: Mismatch and likely cause.
        """
        chosen = chosen_samples(samples, max_tokens=MAX_TOKENS)
        explained = usual(chosen, roles=roles, published=published, previous=previous)
        outcome = judge(published.version, chosen, explained)
        if not outcome.noise.per_logit <= _TIMES_DOUBTED * self._noise_before:
            explained |= scaled_adapters(chosen, roles=roles, published=published)
            outcome = judge(published.version, chosen, explained)
        if outcome.suspected or self._too_noisy(outcome):
            more = [*samples, *ask_more()]
            explained = usual(more, roles=roles, published=published, previous=previous)
            explained |= scaled_adapters(more, roles=roles, published=published)
            outcome = judge(published.version, more, explained)
            if outcome.failed or self._too_noisy(outcome):
                explained |= finer(more, roles=roles, published=published, others=older)
                raise SyncError(self._complaint(more, explained, outcome))
        self._usual_noise.append(outcome.noise.per_logit)
        return outcome

    @property
    def _noise_before(self) -> float:
        """The usual noise of the run, NaN before its first proof."""
        return median(self._usual_noise) if self._usual_noise else math.nan

    def _too_noisy(self, outcome: SyncOutcome) -> bool:
        """Whether the mismatch is more than rounding, whatever explains it."""
        if math.isnan(outcome.noise.nats):
            return True
        if self._limit is not None:
            return not outcome.mismatch.mean <= self._limit
        nats = outcome.noise.nats
        if not self._usual_noise:
            return not nats <= _FIRST_NATS[self._exact]
        usual_noise = _TIMES_USUAL * self._noise_before
        return not (nats <= _LEAST_NATS[self._exact] or outcome.noise.per_logit <= usual_noise)

    def _complaint(
        self,
        samples: Sequence[Sample],
        explained: Mapping[str, Sequence[Tensor]],
        outcome: SyncOutcome,
    ) -> str:
        tokens, found = DistinctTokens.of(samples), judge(outcome.version, samples, explained)
        fitting = {
            name: Mismatch.between(tokens.server, tokens.chosen(explained[name])).mean
            for name in (found.failed or found.suspected)
        }
        if fitting:
            cause, left = min(fitting.items(), key=lambda item: item[1])
            cause = f"the server's numbers fit {cause}: mean |difference| {left:.2g}, z {found.z[cause]:.1f}"
        else:
            cause = (
                "another base model or dtype, perhaps: neither the version before, another temperature "
                "or top_p, a shift by one token nor another scale of the adapter fits"
            )
        mismatch, limit = outcome.mismatch, self._limit
        allowed = "" if limit is None else f"; ppo.max_logprob_mismatch is {limit:g}"
        return (
            f"version {outcome.version} fails the proof of sync: over {mismatch.num_tokens} tokens of "
            f"{outcome.num_completions} completions the server's logprobs differ from the trainer's by "
            f"{mismatch.mean:.2g} on average (at most {mismatch.max:.2g}, signed {mismatch.bias:+.2g}"
            f"{allowed}). Likely cause: {cause}. None of it was trained on: once the server serves what "
            "is pushed, the same command resumes the run"
        )
