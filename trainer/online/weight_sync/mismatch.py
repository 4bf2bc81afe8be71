"""How far the server's logprobs are from the trainer's, in nats a token."""

import math
from dataclasses import dataclass
from typing import Self

from torch import Tensor


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
    def between(cls, server: Tensor, trainer: Tensor) -> Self:
        """Compare the logprobs [N] of some tokens.

        Tokens whose trainer logprob is NaN do not count; if no others are left, all differences are NaN.
        """
        difference = (server - trainer)[~trainer.isnan()]
        return cls(
            mean=float(difference.abs().mean()),
            max=float(difference.abs().max()) if len(difference) else math.nan,
            bias=float(difference.mean()),
            num_tokens=difference.numel(),
        )
