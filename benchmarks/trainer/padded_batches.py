"""Micro-batches of length-sorted padded rows, as the trainer used to make them."""

from collections.abc import Sequence

import torch

from trainer.model.batches.batch import MicroBatch, SampledTokens, TokenRows
from trainer.model.batches.sample import Sample


def padded_micro_batches(
    samples: Sequence[Sample], *, token_budget: int, device: torch.device, **_: int
) -> list[MicroBatch]:
    """Rows sorted by length and padded on the right; nothing is shared."""
    ordered = sorted(samples, key=lambda s: len(s.prompt_ids) + len(s.completion_ids))
    batches: list[MicroBatch] = []
    rows: list[Sample] = []
    for sample in ordered:
        if rows and len(sample.prompt_ids + sample.completion_ids) * (len(rows) + 1) > token_budget:
            batches.append(padded_batch(rows, device))
            rows = []
        rows.append(sample)
    return [*batches, padded_batch(rows, device)]


def padded_batch(rows: list[Sample], device: torch.device) -> MicroBatch:
    ids = [torch.tensor(row.prompt_ids + row.completion_ids) for row in rows]
    token_ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    lengths = torch.tensor([len(row.completion_ids) for row in rows])
    prompts = torch.tensor([len(row.prompt_ids) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    steps = torch.arange(mask.shape[1] + 1)
    starts = torch.arange(len(rows)) * token_ids.shape[1] + prompts - 1
    states = starts.unsqueeze(1) + torch.minimum(steps, lengths.unsqueeze(1))
    settings = torch.tensor([(row.temperature, row.top_p) for row in rows])
    temperature, top_p = settings.repeat_interleave(lengths, dim=0).unbind(dim=1)
    sampled_index = torch.zeros(mask.shape, dtype=torch.long)
    sampled_index[mask] = torch.arange(int(mask.sum()))
    sampler_logprobs = torch.zeros(mask.shape)
    sampler_logprobs[mask] = torch.tensor([x for row in rows for x in row.sampler_logprobs])
    return MicroBatch(
        rows=TokenRows(
            token_ids=token_ids,
            position_ids=torch.arange(token_ids.shape[1]).expand_as(token_ids),
            subtree_ends=torch.full_like(token_ids, token_ids.shape[1]),
        ),
        states=states,
        sampled=SampledTokens(
            states=states[:, :-1][mask],
            token_ids=torch.tensor([token for row in rows for token in row.completion_ids]),
            temperature=temperature,
            top_p=top_p,
            num_restricted=int((top_p < 1).sum()),
        ),
        sampled_index=sampled_index,
        mask=mask,
        sampler_logprobs=sampler_logprobs,
        rewards=torch.tensor([row.reward for row in rows]),
        terminal=torch.tensor([not row.truncated for row in rows]),
        indices=tuple(range(len(rows))),
        samples=tuple(rows),
    )
