"""Completions as tensors: micro-batches that compute each shared prefix once, under a token budget.

`micro_batches` lays the prefix trees of samples side by side in rows of equal width
(`trainer.model.batches.packing`). Tensors of completions are [B, C]; every completion token has the index of the
state before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.model.batches.packing import PlacedTree, packed_trees
from trainer.model.batches.sample import Sample

_WIDTH_STEPS = {"cuda": 64}
"""By kind of device: row widths are rounded up to a multiple of this, unless the micro-batch would exceed its budget.

cuDNN's attention, which PyTorch prefers on Hopper, builds plans for every shape that it meets, and keeps them all: one
for passes without gradients, one for passes with them, and one for backward passes. According to others' measurements,
a plan takes 20 to 70 ms.
"""


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """[R, W] tokens of prefix trees that lie side by side in R rows, padded on the right."""

    token_ids: Tensor
    position_ids: Tensor
    subtree_ends: Tensor
    """One past the row index of the last token that attends to this one."""

    @property
    def attention_mask(self) -> Tensor:
        """[R, 1, W, W] bool: query i attends to key j if ``j <= i < subtree_ends[j]``.

        Padding attends to itself, so that no softmax is empty.
        """
        keys = torch.arange(self.token_ids.shape[1], device=self.token_ids.device)
        queries = keys.unsqueeze(-1)
        return ((keys <= queries) & (queries < self.subtree_ends.unsqueeze(1))).unsqueeze(1)

    def windowed_mask(self, window: int) -> Tensor:
        """`attention_mask` without the keys that are ``window`` or more positions before a query."""
        distances = self.position_ids.unsqueeze(2) - self.position_ids.unsqueeze(1)
        return self.attention_mask & (distances < window).unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class SampledTokens:
    """[N] the distinct (state, temperature, top_p, token) tuples of a micro-batch."""

    states: Tensor
    """Index of the state before the token in the flattened rows."""
    token_ids: Tensor
    temperature: Tensor
    top_p: Tensor
    num_restricted: int
    """How many of them have top_p < 1; these come first."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """B completions of up to C tokens, padded on the right, on rows of shared prefixes."""

    rows: TokenRows
    states: Tensor
    """[B, C + 1] index in the flattened rows of the state before each completion token, and after the last.

    Padding, and the position after a terminal completion's last token, repeat the last state.
    """
    sampled: SampledTokens
    sampled_index: Tensor
    """[B, C] each completion token's index in ``sampled``; 0 on padding."""
    mask: Tensor
    """[B, C] bool, true on completion tokens."""
    sampler_logprobs: Tensor
    """[B, C]"""
    rewards: Tensor
    """[B]"""
    terminal: Tensor
    """[B] bool"""
    indices: tuple[int, ...]
    """Each completion's index in the list of samples that was batched."""
    samples: tuple[Sample, ...]
    """The completions themselves, in the same order."""

    @property
    def num_tokens(self) -> int:
        """Tokens of one forward pass, padding included."""
        return self.rows.token_ids.numel()


def micro_batches(
    samples: Sequence[Sample],
    *,
    token_budget: int,
    hidden_size: int,
    device: torch.device,
    num_shards: int = 1,
    shares_prefixes: bool = True,
) -> list[MicroBatch]:
    """Divide samples into micro-batches of at most ``token_budget`` tokens, padding included.

    Args:
        samples: The completions.
        token_budget: The most rows × width of a micro-batch; see `packed_trees`.
        hidden_size: The model's hidden size; determines the costs.
        device: The device of the tensors.
        num_shards: The number of shards among which they are divided; see `packed_trees`.
        shares_prefixes: See `trainer.model.attention.Attention`.
    """
    packed = packed_trees(
        [sample.state_ids for sample in samples],
        max_tokens=token_budget,
        hidden_size=hidden_size,
        num_shards=num_shards,
        shares_prefixes=shares_prefixes,
    )
    return [_collate(samples, rows, token_budget, device) for rows in packed]


def _collate(
    samples: Sequence[Sample],
    rows: Sequence[Sequence[PlacedTree]],
    token_budget: int,
    device: torch.device,
) -> MicroBatch:
    """Make the tensors of a micro-batch from trees in rows."""
    width = max(sum(placed.num_nodes for placed in row) for row in rows)
    step = _WIDTH_STEPS.get(device.type, 1)
    aligned = -(-width // step) * step
    if len(rows) * aligned <= token_budget:
        width = aligned
    token_ids = np.zeros((len(rows), width), dtype=np.int64)
    position_ids = np.zeros_like(token_ids)
    subtree_ends = np.tile(np.arange(1, width + 1), (len(rows), 1))
    indices: list[int] = []
    paths: list[NDArray[np.int64]] = []
    for i, row in enumerate(rows):
        start = 0
        for placed in row:
            span = (i, slice(start, start + placed.num_nodes))
            token_ids[span] = placed.tree.tokens
            position_ids[span] = placed.tree.depths
            subtree_ends[span] = placed.tree.ends + start
            indices += placed.indices
            paths += [i * width + start + path for path in placed.tree.paths]
            start += placed.num_nodes

    chosen = [samples[i] for i in indices]
    lengths = np.array([len(sample.completion_ids) for sample in chosen])
    mask = np.arange(lengths.max()) < lengths[:, np.newaxis]
    states = np.empty((len(chosen), mask.shape[1] + 1), dtype=np.int64)
    for i, (sample, path) in enumerate(zip(chosen, paths, strict=True)):
        visited = path[len(sample.prompt_ids) - 1 :]
        states[i, : len(visited)] = visited
        states[i, len(visited) :] = visited[-1]
    sampler_logprobs = np.zeros(mask.shape, dtype=np.float32)
    sampler_logprobs[mask] = np.concatenate([sample.sampler_logprobs for sample in chosen])
    sampled, sampled_indices = _sampled_tokens(chosen, states[:, :-1][mask], device)
    sampled_index = np.zeros(mask.shape, dtype=np.int64)
    sampled_index[mask] = sampled_indices
    return MicroBatch(
        rows=TokenRows(
            token_ids=torch.from_numpy(token_ids).to(device),
            position_ids=torch.from_numpy(position_ids).to(device),
            subtree_ends=torch.from_numpy(subtree_ends).to(device),
        ),
        states=torch.from_numpy(states).to(device),
        sampled=sampled,
        sampled_index=torch.from_numpy(sampled_index).to(device),
        mask=torch.from_numpy(mask).to(device),
        sampler_logprobs=torch.from_numpy(sampler_logprobs).to(device),
        rewards=torch.tensor([sample.reward for sample in chosen], device=device),
        terminal=torch.tensor([not sample.truncated for sample in chosen], device=device),
        indices=tuple(indices),
        samples=tuple(chosen),
    )


def _sampled_tokens(
    samples: Sequence[Sample], states: NDArray[np.int64], device: torch.device
) -> tuple[SampledTokens, NDArray[np.int64]]:
    """The distinct tokens among all M completion tokens, and each one's index among them, [M].

    Args:
        samples: The micro-batch's samples.
        states: [M] the state before each completion token, sample after sample.
        device: The device of the tensors.
    """
    settings = sorted({(sample.top_p, sample.temperature) for sample in samples})
    setting = np.repeat(
        [settings.index((sample.top_p, sample.temperature)) for sample in samples],
        [len(sample.completion_ids) for sample in samples],
    )
    token_ids = np.concatenate([np.array(sample.completion_ids) for sample in samples])
    keys = (setting * (states.max() + 1) + states) * (token_ids.max() + 1) + token_ids
    _, first, sampled_indices = np.unique(keys, return_index=True, return_inverse=True)
    distinct = setting[first]
    top_p, temperature = torch.tensor(settings)[distinct].to(device).unbind(dim=1)
    sampled = SampledTokens(
        states=torch.from_numpy(states[first]).to(device),
        token_ids=torch.from_numpy(token_ids[first]).to(device),
        temperature=temperature,
        top_p=top_p,
        # Counted on the host, since reading the count from a GPU would mean waiting for it.
        num_restricted=int((np.array(settings)[distinct, 0] < 1).sum()),
    )
    return sampled, sampled_indices
