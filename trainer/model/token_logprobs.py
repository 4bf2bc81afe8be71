"""From hidden states to the logprobs of sampled tokens, without all logits at once.

Tokens are scored in chunks, so that memory does not grow with vocabulary × tokens. Where top-p
sampled them, a chunk keeps the ids of its nuclei: any role can then be scored on the same nucleus_mask,
and small nuclei need only their own rows of the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.model.batch import SampledTokens

CHUNK_LOGITS = 2**25
"""Logits that exist together, 128 MiB of them: at a vocabulary of 150k those of 223 tokens, which
still keep a matrix product busy."""

_NUM_PARTS = 16
"""A chunk of whole distributions is worked on in so many parts: what a part needs beside them is little."""

FIRST_GUESS = 8
"""Most likely tokens that are looked at first; most nuclei end among them."""


@dataclass(frozen=True, kw_only=True)
class Nucleus:
    """The tokens that top-p sampling kept for each of n sampled tokens: M in all, ragged."""

    token_ids: Tensor
    """[M] int32: the n sampled tokens, then the others of each row after the other."""
    num_others: Tensor
    """[n] how many tokens are kept beside the sampled one."""

    @property
    def rows(self) -> Tensor:
        """[M] which of the n each token was kept for."""
        rows = torch.arange(len(self.num_others), device=self.num_others.device)
        num_others = len(self.token_ids) - len(rows)
        return torch.cat([rows, rows.repeat_interleave(self.num_others, output_size=num_others)])


@dataclass(frozen=True, kw_only=True)
class SampledScores:
    """Of N distinct sampled tokens."""

    logprobs: Tensor
    """[N]"""
    entropy: Tensor
    """[N] in nats, no gradient."""
    nucleus_mask: tuple[Nucleus, ...]
    """The nuclei of each chunk of tokens with top_p < 1."""


def nucleus(probabilities: Tensor, top_p: Tensor, sampled: Tensor) -> Nucleus:
    """Which tokens top-p sampling keeps, as vLLM decides it.

    The smallest set of most likely tokens whose mass reaches ``top_p``. The sampled token is kept
    whatever rounding says, since it was sampled.

    Args:
        probabilities: [n, V] after temperature.
        top_p: [n]
        sampled: [n] ids of the sampled tokens.
    """
    vocabulary = probabilities.shape[-1]
    width = min(FIRST_GUESS, vocabulary)
    while True:
        mass, token_ids = probabilities.topk(width, dim=-1)
        kept = mass.cumsum(dim=-1) - mass < top_p.unsqueeze(-1)
        if width == vocabulary or not kept[:, -1].any():
            break
        width = min(8 * width, vocabulary)
    kept &= token_ids != sampled.unsqueeze(-1)
    return Nucleus(
        token_ids=torch.cat([sampled, token_ids[kept]]).int(), num_others=kept.sum(dim=-1)
    )


def score_sampled(
    hidden: Tensor,
    head: nn.Linear,
    sampled: SampledTokens,
    nucleus_mask: Sequence[Nucleus] | None,
) -> SampledScores:
    """Logprobs of sampled tokens at each one's temperature and top-p.

    Args:
        hidden: [N, H] the state before each token.
        head: From [n, H] to the logits [n, V]; PEFT's wrapper of a linear layer will do.
        sampled: N tokens.
        nucleus_mask: What to normalise over where top_p < 1; found from these very states where None.
    """
    size, restricted = max(1, CHUNK_LOGITS // head.out_features), sampled.num_restricted
    starts = [*range(0, restricted, size), *range(restricted, len(hidden), size)]
    chunks = [slice(*bounds) for bounds in pairwise([*starts, len(hidden)])]
    sizes = [chunk.stop - chunk.start for chunk in chunks]
    # A single chunk is in memory anyway; of several, each is computed again in backward.
    several = len(chunks) > 1
    scores: list[tuple[Tensor, Tensor]] = []
    nuclei: list[Nucleus] = []
    for chunk, states in zip(chunks, torch.split(hidden, sizes), strict=True):
        temperature, token_ids = sampled.temperature[chunk], sampled.token_ids[chunk]
        if chunk.start >= restricted:
            if several and _is_plain(head):
                scores.append(
                    _OneAtATime.apply(  # type: ignore[no-untyped-call]
                        states, head.weight, temperature, token_ids
                    )
                )
                continue
            score = partial(_scores_of_all, head, states, temperature, token_ids)
        else:
            nuclei.append(
                # Bound to no name, or two chunks of them would exist at a time.
                nucleus(_probabilities(head, states, temperature), sampled.top_p[chunk], token_ids)
                if nucleus_mask is None
                else nucleus_mask[len(nuclei)]
            )
            score = partial(_scores_of_nucleus, head, states, temperature, nuclei[-1])
        recompute = several and torch.is_grad_enabled()
        scores.append(checkpoint(score, use_reentrant=False) if recompute else score())
    logprobs, entropy = (torch.cat(parts) for parts in zip(*scores, strict=True))
    return SampledScores(logprobs=logprobs, entropy=entropy, nucleus_mask=tuple(nuclei))


@torch.no_grad()
def _probabilities(head: nn.Linear, states: Tensor, temperature: Tensor) -> Tensor:
    """[n, V], in place from step to step: this is the most memory of a pass."""
    logits = head(states).float().div_(temperature.unsqueeze(-1))
    logits.sub_(logits.amax(dim=-1, keepdim=True)).exp_()
    probabilities: Tensor = logits.div_(logits.sum(dim=-1, keepdim=True))
    return probabilities


def _scores_of_all(
    head: nn.Linear, states: Tensor, temperature: Tensor, token_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """[n] logprobs and entropies over the whole vocabulary."""
    log_softmax = (head(states).float() / temperature.unsqueeze(-1)).log_softmax(dim=-1)
    logprobs = log_softmax.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -torch.linalg.vecdot(log_softmax.exp(), log_softmax)
    return logprobs, entropy


class _OneAtATime(torch.autograd.Function):
    """`_scores_of_all` in the memory of its logits alone, which backward makes again and overwrites."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, temperature: Tensor, token_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[n] logprobs and entropies; the weight [V, H] has no gradient."""
        ctx.save_for_backward(states, weight, temperature, token_ids)
        log_softmax = _log_softmax(states, weight, temperature)
        logprobs = log_softmax.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
        entropy = torch.cat([-torch.linalg.vecdot(p.exp(), p) for p in _parts(log_softmax)])
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(
        ctx: Any, of_logprobs: Tensor, of_entropy: Tensor
    ) -> tuple[Tensor, None, None, None]:
        """Of a logit: 1 at the sampled token, else 0, less its probability, over temperature."""
        states, weight, temperature, token_ids = ctx.saved_tensors
        scale = (of_logprobs / temperature).unsqueeze(-1)
        of_logits = _log_softmax(states, weight, temperature).exp_().mul_(-scale)
        of_logits.scatter_add_(-1, token_ids.unsqueeze(-1), scale)
        return of_logits.to(weight.dtype) @ weight, None, None, None


def _log_softmax(states: Tensor, weight: Tensor, temperature: Tensor) -> Tensor:
    """Logits [n, V] at each one's temperature, float32 and normalised in place."""
    logits = nn.functional.linear(states, weight).float().div_(temperature.unsqueeze(-1))
    for part in _parts(logits):
        part.sub_(part.logsumexp(dim=-1, keepdim=True))
    return logits


def _parts(chunk: Tensor) -> Sequence[Tensor]:
    """Views of some rows each."""
    return torch.split(chunk, max(1, len(chunk) // _NUM_PARTS))


def _scores_of_nucleus(
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
    """[M] logits of the nuclei, from their own rows of the head where that is the smaller part."""
    if _is_plain(head):
        weight = head.weight
        if len(rows) * weight.shape[1] <= len(states) * weight.shape[0]:
            return (states[rows].float() * weight[token_ids].float()).sum(dim=-1)
    logits: Tensor = head(states)[rows, token_ids].float()
    return logits


def _is_plain(head: nn.Linear) -> bool:
    """Whether it is its weight: a head with an adapter, in PEFT's wrapper, is more."""
    return type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
