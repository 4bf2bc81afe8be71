"""How far the server's logprobs are from the trainer's, and what else the server's logprobs would fit.

Pure functions: logprobs of both sides go in, the mismatch and its likely cause come out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_FITS = 0.5
"""An explanation must leave less than this fraction of the mismatch."""


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """The server's logprobs minus the trainer's over some tokens, in nats a token."""

    mean: float
    """Mean absolute difference."""
    max: float
    """Largest absolute difference."""
    bias: float
    """Mean signed difference."""
    num_tokens: int

    @classmethod
    def between(cls, server: Sequence[Tensor], trainer: Sequence[Tensor]) -> Self:
        """Compare the logprobs of some completions, each [C]."""
        difference = torch.cat(list(server)) - torch.cat(list(trainer))
        return cls(
            mean=float(difference.abs().mean()),
            max=float(difference.abs().max()),
            bias=float(difference.mean()),
            num_tokens=difference.numel(),
        )


def shift_mismatches(server: Sequence[Tensor], trainer: Sequence[Tensor]) -> dict[str, float]:
    """Mean |difference| if the server's logprobs were those of the token before, or of the token after.

    Args:
        server: A tensor [C] for each completion; completions of one token are skipped.
        trainer: The same shapes.
    """
    pairs = [(s, t) for s, t in zip(server, trainer, strict=True) if len(s) > 1]
    if not pairs:
        return {}
    late = Mismatch.between([s[1:] for s, _ in pairs], [t[:-1] for _, t in pairs])
    early = Mismatch.between([s[:-1] for s, _ in pairs], [t[1:] for _, t in pairs])
    return {
        "the token before (shifted by one)": late.mean,
        "the token after (shifted by one)": early.mean,
    }


def fits_better(explained: float, measured: float) -> bool:
    """Whether an explanation leaves so little of a mismatch that chance cannot account for it."""
    return explained < _FITS * measured


def diagnose(measured: float, explanations: Mapping[str, float]) -> str:
    """The likely cause of a mismatch, in one clause.

    Args:
        measured: Mean |difference| from the policy that should be served, nats a token.
        explanations: What may be served instead, each with the mean |difference| from it; not empty.
    """
    cause, left = min(explanations.items(), key=lambda item: item[1])
    if fits_better(left, measured):
        return f"the server's numbers fit {cause}: mean |difference| {left:.2g}"
    return (
        "another base model or dtype, perhaps: neither the version before, another temperature or "
        "top_p, a shift by one token nor another scale of the adapter fits"
    )
