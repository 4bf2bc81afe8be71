"""Completions as tensors: length-sorted micro-batches under a token budget.

A `Sample` is one completion with what PPO needs to know of it. `micro_batches` sorts samples by
length, so that padding is small, and cuts them so that no micro-batch exceeds the budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One completion: token ids as they were sampled, never re-tokenised text."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    """Of the server's sampling distribution, one a completion token."""
    temperature: float
    top_p: float
    reward: float
    truncated: bool
    """The token limit ended it, so its last state is not terminal."""
    version: int | None
    """The policy version that generated it."""

    @property
    def num_tokens(self) -> int:
        """Prompt and completion tokens."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Samples as tensors. B rows, T tokens a row, C completion tokens a row, padded on the right."""

    input_ids: Tensor
    """[B, T] prompt and completion."""
    prompt_lengths: Tensor
    """[B]"""
    completion_ids: Tensor
    """[B, C]"""
    mask: Tensor
    """[B, C] bool, true on completion tokens."""
    sampler_logprobs: Tensor
    """[B, C]"""
    temperature: Tensor
    """[B]"""
    top_p: Tensor
    """[B]"""
    rewards: Tensor
    """[B]"""
    terminal: Tensor
    """[B] bool"""
    indices: tuple[int, ...]
    """Each row's place in the list of samples that was batched."""

    @property
    def state_positions(self) -> Tensor:
        """[B, C + 1] place in ``input_ids`` of the state before each completion token, and after.

        Padding points at the row's last real state.
        """
        steps = torch.arange(self.mask.shape[1] + 1, device=self.input_ids.device)
        lengths = self.mask.sum(dim=1, keepdim=True)
        return (self.prompt_lengths - 1).unsqueeze(1) + torch.minimum(steps, lengths)


def collate(samples: Sequence[Sample], indices: Sequence[int], device: torch.device) -> MicroBatch:
    """The samples at ``indices`` as one micro-batch on ``device``."""
    rows = [samples[i] for i in indices]
    width = max(row.num_tokens for row in rows)
    num_completion = max(len(row.completion_ids) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    completion_ids = torch.zeros(len(rows), num_completion, dtype=torch.long)
    mask = torch.zeros(len(rows), num_completion, dtype=torch.bool)
    sampler_logprobs = torch.zeros(len(rows), num_completion)
    for i, row in enumerate(rows):
        length = len(row.completion_ids)
        input_ids[i, : row.num_tokens] = torch.tensor(row.prompt_ids + row.completion_ids)
        completion_ids[i, :length] = torch.tensor(row.completion_ids)
        mask[i, :length] = True
        sampler_logprobs[i, :length] = torch.tensor(row.sampler_logprobs)
    return MicroBatch(
        input_ids=input_ids.to(device),
        prompt_lengths=torch.tensor([len(row.prompt_ids) for row in rows], device=device),
        completion_ids=completion_ids.to(device),
        mask=mask.to(device),
        sampler_logprobs=sampler_logprobs.to(device),
        temperature=torch.tensor([row.temperature for row in rows], device=device),
        top_p=torch.tensor([row.top_p for row in rows], device=device),
        rewards=torch.tensor([row.reward for row in rows], device=device),
        terminal=torch.tensor([not row.truncated for row in rows], device=device),
        indices=tuple(indices),
    )


def micro_batches(
    samples: Sequence[Sample],
    *,
    token_budget: int,
    device: torch.device,
    indices: Sequence[int] | None = None,
) -> list[MicroBatch]:
    """Cut samples into micro-batches of at most ``token_budget`` tokens, padding counted.

    A sample longer than the budget gets a micro-batch of its own.

    Args:
        samples: The completions.
        token_budget: Most rows × longest row of a micro-batch.
        device: Where the tensors go.
        indices: Which samples to take; all by default.
    """
    order = sorted(
        range(len(samples)) if indices is None else indices,
        key=lambda i: (samples[i].num_tokens, i),
    )
    batches: list[MicroBatch] = []
    rows: list[int] = []
    for i in order:
        # Rows come in rising length, so the newest is the width of the micro-batch.
        if rows and samples[i].num_tokens * (len(rows) + 1) > token_budget:
            batches.append(collate(samples, rows, device))
            rows = []
        rows.append(i)
    if rows:
        batches.append(collate(samples, rows, device))
    return batches
