"""Computes the logprobs of sampled tokens from hidden states, without having all logits in memory at once.

Logits are float32 whatever the dtype of the model (`trainer.model.head`). Tokens are computed in chunks, so
that memory does not grow with vocabulary × tokens. For tokens that were sampled with top-p, a chunk keeps the
token ids in its nuclei: every role is then normalised over the same tokens, and small nuclei need only their own
rows of the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.model.batches.batch import SampledTokens
from trainer.model.device import gathered
from trainer.model.head import float32_logits, float32_product, is_plain
from trainer.model.kernels.triton_modules import triton_module
from trainer.model.nuclei import Nucleus, find_nuclei

CHUNK_LOGITS = {"cpu": 2**25, "cuda": 2**26}
"""The most logits in memory at once, by kind of device. On a CPU they take 128 MiB: the logits of 223 tokens at a
vocabulary of 150k, which is enough for an efficient matrix product. With so few, a GPU would wait for launches."""

_NUM_PARTS = 16
"""A chunk of whole distributions is processed in this many parts, to keep temporaries small."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens may have been sampled, relative to how they were asked for."""

    temperature_factor: float = 1.0
    whole: bool = False
    """From the whole distribution: top_p 1."""
    raw: bool = False
    """At temperature 1 and top_p 1."""

    def applied(self, sampled: SampledTokens) -> SampledTokens:
        """The tokens as if they had been sampled in this way."""
        ones = torch.ones_like(sampled.top_p)
        if self.raw:
            return replace(sampled, temperature=ones, top_p=ones, num_restricted=0)
        if self.whole:
            return replace(sampled, top_p=ones, num_restricted=0)
        return replace(sampled, temperature=sampled.temperature * self.temperature_factor)


AS_ASKED = Sampling()


@dataclass(frozen=True, kw_only=True)
class DistinctLogprobs:
    """Logprobs and entropies of N distinct sampled tokens."""

    logprobs: Tensor
    """[N]"""
    entropy: Tensor
    """[N] in nats, no gradient."""
    nuclei: tuple[Nucleus, ...]
    """The nuclei of the tokens with top_p < 1, in order; each entry covers the tokens of one chunk or more."""


def distinct_logprobs(
    hidden: Tensor,
    head: nn.Linear,
    sampled: SampledTokens,
    nuclei: Sequence[Nucleus] | None,
) -> DistinctLogprobs:
    """Logprobs of sampled tokens at each one's temperature and top-p.

    Args:
        hidden: [N, H] the state before each token.
        head: The layer from [n, H] to the logits [n, V]; may be PEFT's wrapper of a linear layer.
        sampled: N tokens.
        nuclei: The nuclei to normalise over where top_p < 1; None finds them from ``hidden``.
    """
    most = CHUNK_LOGITS["cuda" if hidden.is_cuda else "cpu"]
    size, restricted = max(1, most // head.out_features), sampled.num_restricted
    if nuclei is None:
        nuclei = find_nuclei(hidden[:restricted], head, sampled, size=size, most_numbers=most // 2)
    bounds = [0, *accumulate(len(kept.num_others) for kept in nuclei)]
    bounds += range(restricted + size, len(hidden), size)
    chunks = [slice(*both) for both in pairwise([*bounds, len(hidden)]) if both[0] < both[1]]
    sizes = [chunk.stop - chunk.start for chunk in chunks]
    # Several chunks would not fit in memory together, so that the backward pass recomputes each.
    several = len(chunks) > 1
    parts: list[tuple[Tensor, Tensor]] = []
    for i, (chunk, states) in enumerate(zip(chunks, torch.split(hidden, sizes), strict=True)):
        temperature, token_ids = sampled.temperature[chunk], sampled.token_ids[chunk]
        if chunk.start < restricted:
            compute = partial(_nucleus_logprobs, head, states, temperature, nuclei[i])
        elif (several or hidden.is_cuda) and is_plain(head):
            parts.append(
                _RecomputedLogprobs.apply(  # type: ignore[no-untyped-call]
                    states, head.weight, temperature, token_ids
                )
            )
            continue
        else:
            compute = partial(_whole_logprobs, head, states, temperature, token_ids)
        recompute = several and torch.is_grad_enabled()
        parts.append(checkpoint(compute, use_reentrant=False) if recompute else compute())
    logprobs, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
    return DistinctLogprobs(logprobs=logprobs, entropy=entropy, nuclei=tuple(nuclei))


def _whole_logprobs(
    head: nn.Linear, states: Tensor, temperature: Tensor, token_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """[n] logprobs and entropies over the whole vocabulary."""
    log_softmax = (float32_logits(head, states) / temperature.unsqueeze(-1)).log_softmax(dim=-1)
    logprobs = log_softmax.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -torch.linalg.vecdot(log_softmax.exp(), log_softmax)
    return logprobs, entropy


class _RecomputedLogprobs(torch.autograd.Function):
    """`_whole_logprobs` that keeps no logits; the backward pass computes them again and overwrites them."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, temperature: Tensor, token_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[n] logprobs and entropies; the weight [V, H] has no gradient."""
        if states.is_cuda:
            logits = float32_product(states, weight)
            logprobs, entropy, log_sum = triton_module("softmax").logprobs_and_entropy(
                logits, temperature, token_ids
            )
            ctx.save_for_backward(states, weight, temperature, token_ids, log_sum)
        else:
            ctx.save_for_backward(states, weight, temperature, token_ids)
            log_softmax = _log_softmax(states, weight, temperature)
            logprobs = log_softmax.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
            entropy = torch.cat([-torch.linalg.vecdot(p.exp(), p) for p in _parts(log_softmax)])
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(
        ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor
    ) -> tuple[Tensor, None, None, None]:
        """A logit's gradient: (1 at the sampled token, else 0, minus its probability) / temperature."""
        states, weight, temperature, token_ids, *log_sum = ctx.saved_tensors
        if states.is_cuda:
            grad_logits = triton_module("softmax").logprobs_gradient(
                float32_product(states, weight),
                *(temperature, token_ids, *log_sum, grad_logprobs, weight.dtype),
            )
            return grad_logits @ weight, None, None, None
        scale = (grad_logprobs / temperature).unsqueeze(-1)
        grad_logits = _log_softmax(states, weight, temperature).exp_().mul_(-scale)
        grad_logits.scatter_add_(-1, token_ids.unsqueeze(-1), scale)
        return grad_logits.to(weight.dtype) @ weight, None, None, None


def _log_softmax(states: Tensor, weight: Tensor, temperature: Tensor) -> Tensor:
    """[n, V] log-probabilities at each token's temperature, float32, normalised in place."""
    logits = float32_product(states, weight).div_(temperature.unsqueeze(-1))
    for part in _parts(logits):
        part.sub_(part.logsumexp(dim=-1, keepdim=True))
    return logits


def _parts(chunk: Tensor) -> Sequence[Tensor]:
    """Views of the chunk, a few rows each."""
    return torch.split(chunk, max(1, len(chunk) // _NUM_PARTS))


def _nucleus_logprobs(
    head: nn.Linear, states: Tensor, temperature: Tensor, kept: Nucleus
) -> tuple[Tensor, Tensor]:
    """[n] logprobs and entropies over each token's nucleus."""
    rows, n = kept.rows, len(states)
    logits = _kept_logits(head, states, rows, kept.token_ids) / temperature[rows]
    zeros = logits.new_zeros(n)
    largest = zeros.scatter_reduce(0, rows, logits.detach(), "amax", include_self=False)
    mass = zeros.index_add(0, rows, (logits - largest[rows]).exp())
    log_mass = largest + mass.log()
    with torch.no_grad():
        logprobs = logits - log_mass[rows]
        entropy = -zeros.index_add(0, rows, logprobs.exp() * logprobs)
    return logits[:n] - log_mass, entropy


def _kept_logits(head: nn.Linear, states: Tensor, rows: Tensor, token_ids: Tensor) -> Tensor:
    """[M] logits of the nuclei, computed from only their rows of the head if these are fewer numbers."""
    if is_plain(head):
        weight = head.weight
        if len(rows) * weight.shape[1] <= len(states) * weight.shape[0]:
            return (gathered(states, rows).float() * weight[token_ids].float()).sum(dim=-1)
    return float32_logits(head, states)[rows, token_ids]
