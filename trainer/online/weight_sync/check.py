"""The weight-sync check: does the server serve, under a version's name, the weights that were pushed?

The trainer scores completions of a version with the adapter that it pushed, and with the alternatives that a
server may serve by mistake: the version before, the adapter scaled or left out, another temperature or top_p,
logprobs shifted by a token. The run stops if an alternative fits better than chance allows
(`trainer.online.weight_sync.evidence`). It also stops if the mismatch is far above the run's usual rounding
noise, even if no alternative explains it.

Every step's update scores the completions with the pushed adapter anyway, and a server that serves anything else
raises the noise between server and trainer. So the alternatives are computed only for the first versions of a run,
when the noise is above its usual level, and now and then. `trainer.online.weight_sync.proofs` chooses the completions.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from torch import Tensor

from trainer.config.sections import TrainConfig
from trainer.errors import SyncError
from trainer.io.metrics_file import Metrics
from trainer.model.batches.sample import Sample
from trainer.online.weight_sync.alternatives import PUSHED, Explanations, chosen_samples
from trainer.online.weight_sync.evidence import DistinctTokens
from trainer.online.weight_sync.mismatch import Mismatch
from trainer.online.weight_sync.outcome import SyncOutcome, judge
from trainer.servers.origins import THE_SERVER, Origin

MAX_TOKENS = 2048
"""The most tokens of a forward pass of the check; most of them belong to prompts."""

_FIRST_NATS = {True: 0.001, False: 0.1}
"""Noise above this, in nats a token, is too much for the first version of a run. True: both sides compute in float32
(kernels differ by 1e-6 to 1e-5). False: a side has half precision (published figures for bfloat16 are 0.002 to
0.04)."""
_LEAST_NATS = {True: 0.0005, False: 0.01}
"""Noise up to this, in nats a token, is never too much for a later version; keys as above."""
_TIMES_USUAL = 8.0
"""Noise above this many times the run's usual noise is too much."""
_TIMES_DOUBTED = 1.5
"""Noise above this many times the run's usual noise makes it worthwhile to compute the alternatives."""
_UNDOUBTED = 2e-6
"""Noise of the logits up to this is explained by float32 rounding, whatever the kernels."""
_NUM_USUAL = 16
"""The usual noise is the median of this many proven versions."""
_NUM_FIRST = 3
"""Versions of a run for which the alternatives are computed, whatever the noise."""
_TOKENS_BETWEEN = 100_000
"""The alternatives are computed again after this many completion tokens. They take some 5,000 tokens of forward
passes; training on 100,000 completion tokens takes 500,000."""


class SyncCheck:
    """Checks versions against what was pushed, and knows the run's usual noise."""

    def __init__(self, config: TrainConfig, *, server_dtype: str, past: Sequence[Metrics]):
        """Fix the thresholds of a run.

        Args:
            config: The run's configuration.
            server_dtype: The dtype that the server computes in, e.g. ``float32``.
            past: Metrics of the run's earlier steps, from which the usual noise is taken.
        """
        self._exact = server_dtype == "float32" and config.policy.dtype in ("auto", server_dtype)
        self._limit = config.ppo.max_logprob_mismatch
        usual_noise = [row["sync/noise"] for row in past if "sync/noise" in row]
        self._usual_noise = deque(usual_noise, maxlen=_NUM_USUAL)
        self._num_past = len(usual_noise)
        self._first: set[int] = set()
        """The first `_NUM_FIRST` versions proven since this process started."""
        self._num_tokens: Counter[Origin] = Counter()
        """Completion tokens of each origin since alternatives were last computed for it."""

    def prove(
        self,
        samples: Sequence[Sample],
        explanations: Explanations,
        *,
        pushed: Sequence[Tensor] | None = None,
        ask_more: Callable[[], Sequence[Sample]],
        origin: Origin = THE_SERVER,
    ) -> SyncOutcome:
        """Check that the server serves what was pushed.

        The alternatives are first compared on a few completions. If these raise an alarm, all completions and
        further ones decide, so that a handful of tokens cannot end a run.

        Args:
            samples: The version's completions from the server.
            explanations: Computes logprobs for what the server may be serving.
            pushed: The trainer's logprobs of the samples with the pushed adapter, [C] each, if they are already
                known; without them the alternatives are always computed.
            ask_more: Asks the server for completions of other questions.
            origin: Which of several servers or replicas made the samples.

        Raises:
            SyncError: The check fails; the message names the mismatch and its likely cause.
        """
        if pushed is None:
            outcome = self._compared(samples, explanations, ask_more)
            self._num_tokens[origin] = 0
        else:
            outcome = judge(explanations.version, samples, {PUSHED: pushed})
            self._num_tokens[origin] += sum(len(sample.completion_ids) for sample in samples)
            if self._is_doubted(outcome) or self._num_tokens[origin] >= _TOKENS_BETWEEN:
                z = self._compared(samples, explanations, ask_more).z
                outcome = replace(outcome, z=z)
                self._num_tokens[origin] = 0
        self._usual_noise.append(outcome.noise.per_logit)
        if len(self._first) < _NUM_FIRST:
            self._first.add(outcome.version)
        return outcome

    def _is_doubted(self, outcome: SyncOutcome) -> bool:
        """Whether the noise is too large to rule out that the server serves something else."""
        if self._num_before(outcome.version) < _NUM_FIRST or self._too_noisy(outcome):
            return True
        limit = max(_UNDOUBTED, _TIMES_DOUBTED * self._noise_before)
        return not outcome.noise.per_logit <= limit

    def _num_before(self, version: int) -> int:
        """How many other versions were proven before; a version counts once, on however many servers.

        Of the versions proven since this process started, at most `_NUM_FIRST` count.
        """
        return self._num_past + len(self._first - {version})

    def _compared(
        self,
        samples: Sequence[Sample],
        explanations: Explanations,
        ask_more: Callable[[], Sequence[Sample]],
    ) -> SyncOutcome:
        """Compare what was pushed with the alternatives.

        Raises:
            SyncError: An alternative fits better than chance allows, or the mismatch is more than rounding.
        """
        version = explanations.version
        # A fault that is there from the start would otherwise be taken for the run's usual noise.
        is_first = not self._num_before(version)
        chosen = chosen_samples(samples, max_tokens=MAX_TOKENS)
        explained = explanations.usual(chosen)
        outcome = judge(version, chosen, explained)
        if self._is_doubted(outcome):
            explained |= explanations.scaled_adapters(chosen)
            if is_first:
                explained |= explanations.finer(chosen)
            outcome = judge(version, chosen, explained)
        if outcome.suspected or self._too_noisy(outcome):
            more = [*samples, *ask_more()]
            explained = explanations.usual(more) | explanations.scaled_adapters(more)
            if is_first:
                explained |= explanations.finer(more)
            outcome = judge(version, more, explained)
            if outcome.failed or self._too_noisy(outcome):
                explained |= {} if is_first else explanations.finer(more)
                raise SyncError(self._complaint(more, explained, outcome))
        return outcome

    @property
    def _noise_before(self) -> float:
        """The run's usual noise; NaN before its first proof."""
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
            f"version {outcome.version} fails the weight-sync check: over {mismatch.num_tokens} tokens of "
            f"{outcome.num_completions} completions the server's logprobs differ from the trainer's by "
            f"{mismatch.mean:.2g} on average (at most {mismatch.max:.2g}, signed {mismatch.bias:+.2g}"
            f"{allowed}). Likely cause: {cause}. None of it was trained on: once the server serves what "
            "is pushed, the same command resumes the run"
        )
