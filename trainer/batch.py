"""Completions as tensors: micro-batches that compute each shared prefix once, under a token budget.

A `Sample` is one completion with what PPO needs to know of it. `micro_batches` grows prefix trees
from samples (`trainer.prefix_tree`) and lays them side by side in rows of equal width. What belongs
to a completion stays [B, C]; every completion token knows the place of the state before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.prefix_tree import PrefixTree, common_prefixes, cut, plant


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
    def state_ids(self) -> tuple[int, ...]:
        """The tokens to compute: the last one only where its state is not terminal."""
        ids = self.prompt_ids + self.completion_ids
        return ids if self.truncated else ids[:-1]


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """[R, W] tokens of prefix trees side by side, R rows padded on the right."""

    token_ids: Tensor
    position_ids: Tensor
    subtree_ends: Tensor
    """Place in the row after the last token that sees this one."""

    @property
    def attention_mask(self) -> Tensor:
        """[R, 1, W, W] bool: query i sees key j where ``j <= i < subtree_ends[j]``.

        Padding sees itself alone, so that no softmax is empty.
        """
        places = torch.arange(self.token_ids.shape[1], device=self.token_ids.device)
        queries = places.unsqueeze(-1)
        return ((places <= queries) & (queries < self.subtree_ends.unsqueeze(1))).unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class SampledTokens:
    """[N] the distinct (state, temperature, top_p, token) of a micro-batch."""

    states: Tensor
    """Place of the state before the token in the flattened rows."""
    token_ids: Tensor
    temperature: Tensor
    top_p: Tensor
    num_restricted: int
    """Those with top_p < 1; they come first."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """B completions of up to C tokens, padded on the right, on rows of shared prefixes."""

    rows: TokenRows
    states: Tensor
    """[B, C + 1] place in the flattened rows of the state before each completion token, and after.

    Padding, and what comes after the last token of a terminal completion, repeat the last state.
    """
    sampled: SampledTokens
    sampled_index: Tensor
    """[B, C] each completion token's place in ``sampled``; 0 on padding."""
    mask: Tensor
    """[B, C] bool, true on completion tokens."""
    sampler_logprobs: Tensor
    """[B, C]"""
    rewards: Tensor
    """[B]"""
    terminal: Tensor
    """[B] bool"""
    indices: tuple[int, ...]
    """Each completion's place in the list of samples that was batched."""

    @property
    def num_tokens(self) -> int:
        """Tokens of one forward pass, padding counted."""
        return self.rows.token_ids.numel()


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A tree of samples and where it lies."""

    indices: tuple[int, ...]
    tree: PrefixTree
    row: int = 0
    offset: int = 0


def micro_batches(
    samples: Sequence[Sample], *, token_budget: int, device: torch.device
) -> list[MicroBatch]:
    """Cut samples into micro-batches of at most ``token_budget`` tokens, padding counted.

    Samples are cut into trees that are cheap to compute; trees fill rows as wide as the largest of
    the micro-batch, largest first. A sample longer than the budget gets a micro-batch of its own.

    Args:
        samples: The completions.
        token_budget: Most rows × width of a micro-batch.
        device: Where the tensors go.
    """
    micro_batches: list[MicroBatch] = []
    waiting = sorted(_runs(samples, token_budget), key=lambda run: -len(run.tree.tokens))
    while waiting:
        placed, waiting = _fill(waiting, token_budget)
        micro_batches.append(_collate(samples, placed, device))
    return micro_batches


def _runs(samples: Sequence[Sample], token_budget: int) -> list[_Run]:
    """Every sample in one tree of at most ``token_budget`` nodes."""
    if not samples:
        return []
    ids = [sample.state_ids for sample in samples]
    order = sorted(range(len(samples)), key=ids.__getitem__)
    sequences = [np.array(ids[i], dtype=np.int64) for i in order]
    shared = common_prefixes(sequences)
    lengths = np.array([len(sequence) for sequence in sequences])
    return [
        _Run(indices=tuple(order[run]), tree=plant(sequences[run], shared[run]))
        for run in cut(lengths, shared, max_nodes=token_budget)
    ]


def _fill(runs: Sequence[_Run], token_budget: int) -> tuple[list[_Run], list[_Run]]:
    """Lay runs, in falling size, into the first row with room; also what finds none."""
    width = len(runs[0].tree.tokens)
    filled = [0] * max(1, token_budget // width)
    placed: list[_Run] = []
    left: list[_Run] = []
    for run in runs:
        size = len(run.tree.tokens)
        row = next((row for row, used in enumerate(filled) if used + size <= width), None)
        if row is None:
            left.append(run)
        else:
            placed.append(replace(run, row=row, offset=filled[row]))
            filled[row] += size
    return placed, left


def _collate(samples: Sequence[Sample], runs: Sequence[_Run], device: torch.device) -> MicroBatch:
    """Placed runs as tensors on ``device``."""
    width = max(len(run.tree.tokens) for run in runs)
    num_rows = 1 + max(run.row for run in runs)
    token_ids = np.zeros((num_rows, width), dtype=np.int64)
    position_ids = np.zeros_like(token_ids)
    subtree_ends = np.tile(np.arange(1, width + 1), (num_rows, 1))
    for run in runs:
        place = (run.row, slice(run.offset, run.offset + len(run.tree.tokens)))
        token_ids[place] = run.tree.tokens
        position_ids[place] = run.tree.depths
        subtree_ends[place] = run.tree.ends + run.offset

    indices = [i for run in runs for i in run.indices]
    rows = [samples[i] for i in indices]
    paths = [run.row * width + run.offset + path for run in runs for path in run.tree.paths]
    lengths = np.array([len(row.completion_ids) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, np.newaxis]
    states = np.empty((len(rows), mask.shape[1] + 1), dtype=np.int64)
    for i, (row, path) in enumerate(zip(rows, paths, strict=True)):
        visited = path[len(row.prompt_ids) - 1 :]
        states[i, : len(visited)] = visited
        states[i, len(visited) :] = visited[-1]
    sampler_logprobs = np.zeros(mask.shape, dtype=np.float32)
    sampler_logprobs[mask] = np.concatenate([row.sampler_logprobs for row in rows])
    sampled, places = _sampled_tokens(rows, states[:, :-1][mask], device)
    sampled_index = np.zeros(mask.shape, dtype=np.int64)
    sampled_index[mask] = places
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
        rewards=torch.tensor([row.reward for row in rows], device=device),
        terminal=torch.tensor([not row.truncated for row in rows], device=device),
        indices=tuple(indices),
    )


def _sampled_tokens(
    rows: Sequence[Sample], states: NDArray[np.int64], device: torch.device
) -> tuple[SampledTokens, NDArray[np.int64]]:
    """The distinct ones among all completion tokens [M], and the place of each of those, [M].

    Args:
        rows: The samples.
        states: [M] the state before each completion token, sample after sample.
        device: Where the tensors go.
    """
    settings = sorted({(row.top_p, row.temperature) for row in rows})
    lengths = [len(row.completion_ids) for row in rows]
    setting = np.repeat([settings.index((row.top_p, row.temperature)) for row in rows], lengths)
    token_ids = np.array([token for row in rows for token in row.completion_ids], dtype=np.int64)
    keys = (setting * (states.max() + 1) + states) * (token_ids.max() + 1) + token_ids
    _, first, places = np.unique(keys, return_index=True, return_inverse=True)
    top_p, temperature = torch.tensor(settings)[setting[first]].to(device).unbind(dim=1)
    sampled = SampledTokens(
        states=torch.from_numpy(states[first]).to(device),
        token_ids=torch.from_numpy(token_ids[first]).to(device),
        temperature=temperature,
        top_p=top_p,
        num_restricted=int((top_p < 1).sum()),
    )
    return sampled, places
