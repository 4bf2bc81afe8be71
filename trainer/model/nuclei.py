"""Finds the tokens that top-p sampling keeps: once, with the proximal policy; every role is normalised over them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.model.batches.batch import SampledTokens
from trainer.model.head import float32_logits, is_plain

FIRST_GUESS = 8
"""How many of the most likely tokens are tried first; most nuclei are smaller."""


@dataclass(frozen=True, kw_only=True)
class Nucleus:
    """The tokens that top-p sampling kept for each of n sampled tokens: M in all, ragged."""

    token_ids: Tensor
    """[M] int32: the n sampled tokens, then the other kept tokens of each in turn."""
    num_others: Tensor
    """[n] how many tokens are kept besides the sampled one."""

    @property
    def rows(self) -> Tensor:
        """[M] index of the sampled token (of the n) that each token was kept for."""
        rows = torch.arange(len(self.num_others), device=self.num_others.device)
        num_others = len(self.token_ids) - len(rows)
        return torch.cat([rows, rows.repeat_interleave(self.num_others, output_size=num_others)])


def nucleus(probabilities: Tensor, top_p: Tensor, sampled: Tensor) -> Nucleus:
    """The tokens that top-p sampling keeps, by vLLM's rule.

    It is the smallest set of most likely tokens whose mass reaches ``top_p``. The sampled token is always
    kept, even if rounding would leave it out.

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


def find_nuclei(
    hidden: Tensor, head: nn.Linear, sampled: SampledTokens, *, size: int, most_numbers: int
) -> list[Nucleus]:
    """The nuclei of tokens with top_p < 1, found for ``size`` of them at a time.

    Small nuclei are then joined into one, as long as their rows of the head have at most ``most_numbers``
    numbers, because each separate one takes many launches and little memory.
    """
    found: list[Nucleus] = []
    waiting: list[Nucleus] = []
    num_numbers = 0
    for start in range(0, len(hidden), size):
        chunk = slice(start, min(start + size, len(hidden)))
        # Probabilities get no name here; otherwise two chunks of them would be in memory at once.
        kept = nucleus(
            _probabilities(head, hidden[chunk], sampled.temperature[chunk]),
            sampled.top_p[chunk],
            sampled.token_ids[chunk],
        )
        numbers = len(kept.token_ids) * head.in_features
        if waiting and (num_numbers + numbers > most_numbers or not is_plain(head)):
            found.append(_joined(waiting))
            waiting, num_numbers = [], 0
        waiting.append(kept)
        num_numbers += numbers
    return [*found, _joined(waiting)] if waiting else found


def _joined(nuclei: Sequence[Nucleus]) -> Nucleus:
    """One `Nucleus` for the tokens of all."""
    if len(nuclei) == 1:
        return nuclei[0]
    parts = [kept.token_ids.tensor_split([len(kept.num_others)]) for kept in nuclei]
    sampled, others = zip(*parts, strict=True)
    return Nucleus(
        token_ids=torch.cat([*sampled, *others]),
        num_others=torch.cat([kept.num_others for kept in nuclei]),
    )


@torch.no_grad()
def _probabilities(head: nn.Linear, states: Tensor, temperature: Tensor) -> Tensor:
    """[n, V], computed in place, since this takes more memory than anything else in a pass."""
    logits = float32_logits(head, states).div_(temperature.unsqueeze(-1))
    logits.sub_(logits.amax(dim=-1, keepdim=True)).exp_()
    probabilities: Tensor = logits.div_(logits.sum(dim=-1, keepdim=True))
    return probabilities
