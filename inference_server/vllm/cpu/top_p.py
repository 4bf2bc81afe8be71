"""Top-p on the CPU without sorting the vocabulary, and with exactly vLLM's result.

vLLM (``vllm/v1/sample/ops/topk_topp_sampler.py``) sorts every row to find its nucleus; at a vocabulary of
49k that is most of the time that sampling takes. A nucleus nearly always lies within a row's most likely
tokens, so only these are ordered. A row in doubt is sorted as in vLLM: one whose nucleus reaches further, has
a cumulative mass so near top-p that rounding may decide, or has equal logits on both sides of its edge.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.ops import topk_topp_sampler

_WIDTHS = (64, 1024)
"""How many of the most likely tokens are ordered: first, and for rows that this leaves in doubt."""
_ROUNDING = 1e-4
"""Upper bound on how much the order of summation changes a mass, with a hundredfold margin."""
_SMALL_VOCABULARY = 4096
"""Up to this size sorting is cheap."""
_TINY = 1e-30
"""A probability above this is not 0 in any order of summation."""

Filter = Callable[..., Tensor]


def install() -> None:
    """Replace vLLM's function in this process."""
    original = topk_topp_sampler.apply_top_k_top_p_pytorch
    if not hasattr(original, "__wrapped__"):
        topk_topp_sampler.apply_top_k_top_p_pytorch = without_sorting(original)


def without_sorting(original: Filter) -> Filter:
    """A filter that calls vLLM's ``original`` only for rows in doubt, small vocabularies and requests with top-k."""

    @wraps(original)
    def apply(
        logits: Tensor, k: Tensor | None, p: Tensor | None, *rest: Any, **more: Any
    ) -> Tensor:
        """Sets the logits outside the nuclei to minus infinity, in place: ``logits`` [B, V], ``p`` [B]."""
        if p is None or k is not None or logits.shape[-1] <= _SMALL_VOCABULARY:
            return original(logits, k, p, *rest, **more)
        smallest, in_doubt = _smallest_kept(logits, p)
        if len(in_doubt):
            sorted_rows = original(logits[in_doubt], None, p[in_doubt], *rest, **more)
        logits.masked_fill_(logits < smallest.unsqueeze(-1), -float("inf"))
        if len(in_doubt):
            logits[in_doubt] = sorted_rows
        return logits

    return apply


def _smallest_kept(logits: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """[B] the smallest logit of each row's nucleus, and the indices of the rows in doubt."""
    probabilities = logits.softmax(dim=-1)
    # Top-p 1 removes only tokens of probability 0.
    is_whole = (p >= 1) & (probabilities.amin(dim=-1) > _TINY)
    smallest = logits.new_full(p.shape, -float("inf"))
    in_doubt = (~is_whole).nonzero()[:, 0]
    wide = in_doubt[:0]
    for width in _WIDTHS:
        if not len(in_doubt):
            break
        mass, ids = probabilities[in_doubt].topk(width, dim=-1)
        values = logits[in_doubt].gather(-1, ids)
        # A token is removed if the more likely tokens reach top-p without it.
        missing = p[in_doubt].unsqueeze(-1) - (mass.cumsum(dim=-1) - mass)
        num_kept = (missing > 0).sum(dim=-1)
        edge = num_kept.clamp(1, width - 1).unsqueeze(-1)
        last_kept, first_removed = values.gather(-1, edge - 1), values.gather(-1, edge)
        is_sure = (
            (num_kept >= 1)
            & (num_kept < width)
            & (missing[:, 1:].abs() > _ROUNDING).all(dim=-1)  # no mass precedes the first token
            & (last_kept > first_removed)[:, 0]
        )
        smallest[in_doubt[is_sure]] = last_kept[is_sure, 0]
        # If these tokens hold less than half of the nucleus's mass, a larger width would not hold all of it either.
        is_wide = ~is_sure & (mass.sum(dim=-1) < 0.5 * p[in_doubt])
        wide = torch.cat([wide, in_doubt[is_wide]])
        in_doubt = in_doubt[~is_sure & ~is_wide]
    return smallest, torch.cat([wide, in_doubt])
