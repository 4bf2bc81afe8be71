"""Which of two explanations the server's logprobs support, with a bound on the chance of an error.

These are pure functions of logprobs; they do not know who computes the logprobs, nor what follows from the result.

The server and the trainer compute the same policy in different ways, so even a healthy server's logprobs differ
from the trainer's by rounding: by little on most tokens, but by tenths of a nat where the two disagree on a token at
the edge of a nucleus. `evidence` therefore weighs each explanation against another by a likelihood with tails
as heavy as Cauchy's, in which no single token counts for much. Tokens of one completion share rounding errors,
so whole completions are the units of the test, and a token that several completions share counts once.

The error bound assumes nothing about the size or distribution of the noise. If two explanations fit equally
well, each completion favours either with equal chance; then ``P(z >= x) <= exp(-x²/2)`` for a self-normalised sum
(Efron, J. Am. Stat. Assoc. 64, 1969; by Hoeffding's inequality for the signs given the sizes). If the first
explanation is true, it fits better than the second on average, which only makes a false ``z >= x`` rarer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from trainer.model.batches.sample import Sample

_FLOOR_NATS = 2e-6
"""The difference that float32 rounding of the logits leaves on any token, before division by its temperature."""
_LEAST_GAIN = 1e-9
"""A completion's gain counts as zero if its absolute value is at most this."""


@dataclass(frozen=True, kw_only=True)
class DistinctTokens:
    """The server's logprobs of distinct tokens: a token that several completions share counts once.

    Completions of one prompt may begin alike, and rounding is the same on their shared beginning.
    """

    server: Tensor
    """[N] float64."""
    places: Tensor
    """[N] each token's index in the concatenation of all completions."""
    completions: Tensor
    """[N] the index of the completion that each token is attributed to."""
    sensitivity: Tensor
    """[N] how far a token's logprob moves if its logit moves by one: (1 - p) / temperature."""
    temperature: Tensor
    """[N]"""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Self:
        """The distinct tokens of some completions; a token sampled at several temperatures counts at the highest."""
        nodes: dict[tuple[object, int], int] = {}
        places: list[int] = []
        completions: list[int] = []
        starts = [0]
        for sample in samples:
            starts.append(starts[-1] + len(sample.completion_ids))
        for i in sorted(range(len(samples)), key=lambda i: -samples[i].temperature):
            parent: object = samples[i].prompt_ids
            for place, token in enumerate(samples[i].completion_ids, start=starts[i]):
                key = (parent, token)
                if key not in nodes:
                    nodes[key] = len(nodes)
                    places.append(place)
                    completions.append(i)
                parent = nodes[key]
        all_server = [x for sample in samples for x in sample.sampler_logprobs]
        server = torch.tensor([all_server[place] for place in places], dtype=torch.float64)
        temperature = torch.tensor(
            [samples[i].temperature for i in completions], dtype=torch.float64
        )
        return cls(
            server=server,
            places=torch.tensor(places, dtype=torch.long),
            completions=torch.tensor(completions, dtype=torch.long),
            sensitivity=-torch.expm1(server.clamp(max=0.0)) / temperature,
            temperature=temperature,
        )

    def chosen(self, logprobs: Sequence[Tensor]) -> Tensor:
        """[N] the distinct tokens' entries of the trainer's logprobs of all completions, [C] each; may be NaN."""
        return torch.cat(list(logprobs)).double()[self.places]

    def where(self, mask: Tensor) -> Self:
        """The tokens that a mask [N] keeps."""
        return type(self)(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    @property
    def num_completions(self) -> int:
        """How many completions the tokens are attributed to."""
        return len(self.completions.unique())


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A robust measure of how far the server is from the trainer: a few tokens at a nucleus's edge do not matter."""

    per_logit: float
    """Typical |difference| of a token per unit of its sensitivity: the size of the noise in the logits."""
    nats: float
    """The same in nats a token, at the tokens' mean sensitivity."""


def noise(tokens: DistinctTokens, trainer: Tensor) -> Noise:
    """The noise between the server and an explanation [N]; NaN if either has a NaN."""
    known = tokens.sensitivity > 0
    if not bool((tokens.server - trainer).isfinite().all()):
        return Noise(per_logit=math.nan, nats=math.nan)
    if not bool(known.any()):
        return Noise(per_logit=0.0, nats=0.0)
    per_logit = _scale(tokens, trainer)
    return Noise(per_logit=per_logit, nats=per_logit * float(tokens.sensitivity.mean()))


def evidence(tokens: DistinctTokens, first: Tensor, second: Tensor) -> float:
    """How much better the second explanation fits the server than the first, as a z.

    Args:
        tokens: The distinct tokens with the server's logprobs.
        first: [N] the trainer's logprobs if the first explanation is true.
        second: [N] the trainer's logprobs if the second is true.

    Returns:
        Positive if the second fits better; 0 if both fit equally well. At most the square root of the number
        of completions. Tokens on which either explanation is NaN or infinite do not count.
    """
    known = second.isfinite() & first.isfinite()
    if not bool(known.any()):
        return 0.0
    some = tokens.where(known)
    first, second = first[known], second[known]
    # Both use the scale of the explanation that fits better, so that the test favours neither.
    per_logit = min(_scale(some, first), _scale(some, second))
    scale = per_logit * some.sensitivity + _FLOOR_NATS / some.temperature
    gain = _log_tail((some.server - first) / scale) - _log_tail((some.server - second) / scale)
    sums = torch.zeros(int(some.completions.max()) + 1, dtype=torch.float64)
    return self_normalized(sums.index_add_(0, some.completions, gain))


def self_normalized(gains: Tensor) -> float:
    """The sum of gains [n], with large ones clipped, divided by the square root of the sum of their squares.

    If each gain has either sign with equal chance, at most ``exp(-z²/2)`` of the choices of signs lead to
    this z or a larger one, whatever the gains' sizes.
    """
    gains = gains[gains.abs() > _LEAST_GAIN]
    if not len(gains):
        return 0.0
    # Otherwise the longest completion could decide the test alone. The limit depends only on the sizes, so the
    # signs keep their equal chances.
    sizes = gains.abs()
    limit = _weighted_median(sizes, sizes)
    gains = gains.clamp(-limit, limit)
    return float(gains.sum() / gains.norm())


def _log_tail(deviation: Tensor) -> Tensor:
    """Minus the log of Cauchy's density, up to a constant."""
    return torch.log1p(deviation**2)


def _scale(tokens: DistinctTokens, trainer: Tensor) -> float:
    """Median of |difference| / sensitivity, each token weighted by its sensitivity."""
    known = tokens.sensitivity > 0
    weights = tokens.sensitivity[known]
    if not len(weights):
        return 0.0
    return _weighted_median((tokens.server - trainer)[known].abs() / weights, weights)


def _weighted_median(numbers: Tensor, weights: Tensor) -> float:
    """The least of some numbers [n] at which half of the total weight is reached; n is at least 1."""
    return float(np.quantile(numbers, 0.5, weights=weights, method="inverted_cdf"))
