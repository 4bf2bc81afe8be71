"""A simulated trainer: each rank's work in a step, and how long the ranks take together.

A mini-batch is divided as in `trainer.model.batches` and `trainer.ranks.shards`.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from benchmarks.scaling.workload import Workload
from trainer.model.batches.packing import cut, shard_budget
from trainer.model.batches.row_packing import pack, row_cost
from trainer.ranks.shards import shards_by_cost

FAMILIES = 2
"""Families of arms, each with a system prompt of its own."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """How long the ranks' work in a step takes, and what they send to each other and to the servers."""

    experience_s: float
    """On one rank; the ranks divide it."""
    update_s: float
    """On one rank; the ranks divide it, except for `optimizer_s`."""
    optimizer_s: float = 0.0
    """Part of the update, per mini-batch: the optimizer's step and everything else that every rank repeats."""
    experience_pass_s: float = 0.0
    """Part of the experience: the fixed time of a micro-batch, however small it is."""
    update_pass_s: float = 0.0
    """Part of the update: the fixed time of a micro-batch."""
    publish_s: float = 0.0
    """With one server, the time for sending the bytes included."""
    prove_s: float = 0.0
    journal_s: float = 0.0
    adapter_bytes: float = 0.0
    """Bytes of a push to one server."""
    gradient_bytes: float = 0.0
    """Per mini-batch, from each rank to each other rank."""
    step_bytes: float = 0.0
    """From the first rank to the others at the start of a step: rollouts and the proximal weights."""
    push_bytes_a_s: float = math.inf
    """Bandwidth from the first rank's machine to all servers together."""
    rank_bytes_a_s: float = math.inf
    """Bandwidth of a rank's link for gradients."""
    step_bytes_a_s: float = math.inf


class Work(NamedTuple):
    """What a rank computes."""

    cost: float
    """Cost of its tokens, in units of a token without attention."""
    passes: float
    """Number of micro-batches."""

    def seconds(self, per_cost_s: float, pass_s: float) -> float:
        return self.cost * per_cost_s + self.passes * pass_s


def added(parts: Sequence[Work]) -> Work:
    """The work of several mini-batches of a rank together."""
    return Work(*map(sum, zip(*parts, strict=True)))


def shards_of(workload: Workload, groups: Sequence[Sequence[int]], ranks: int) -> list[Work]:
    """Each rank's part of a mini-batch.

    The completions of each of a group's two families share its prompt and nothing else, and groups share nothing.
    """
    prompt = workload.prompt_tokens
    lengths = np.array([prompt + length for group in groups for length in group])
    shared = np.array(
        [
            prompt * (i % max(1, len(group) // FAMILIES) > 0)
            for group in groups
            for i in range(len(group))
        ]
    )
    budget = workload.token_budget

    def trees() -> list[int]:
        found = cut(lengths, shared, max_nodes=budget, hidden_size=workload.hidden_size)
        return sorted(
            (int(lengths[run].sum() - shared[run][1:].sum()) for run in found), reverse=True
        )

    nodes = trees()
    if ranks > 1:
        budget = shard_budget(nodes, budget, ranks)
        nodes = trees()
    costs = [
        len(rows)
        * float(
            row_cost(
                np.array(max(sum(nodes[i] for i in row) for row in rows)), workload.hidden_size
            )
        )
        for rows in pack(nodes, max_tokens=budget, hidden_size=workload.hidden_size)
    ]
    totals = [Work(0.0, 0)] * ranks
    for cost, shard in zip(costs, shards_by_cost(costs, ranks), strict=True):
        totals[shard] = added([totals[shard], Work(cost, 1)])
    return totals


@lru_cache(maxsize=4096)
def _work(workload: Workload, number: int, ranks: int) -> list[list[Work]]:
    """Each rank's work in each mini-batch of a step."""
    groups, size = workload.batch(number), workload.per_mini_batch
    parts = (groups[i : i + size] for i in range(0, len(groups), size))
    return [shards_of(workload, part, ranks) for part in parts]


@lru_cache(maxsize=64)
def usual_work(workload: Workload) -> Work:
    """The work of a step on one rank, as the mean of eight steps."""
    steps = [added([shard for (shard,) in _work(workload, number, 1)]) for number in range(8)]
    return Work(*map(statistics.fmean, zip(*steps, strict=True)))


def training(t: Trainer, workload: Workload, number: int, ranks: int) -> tuple[float, float, float]:
    """Seconds of a step's experience and of its update, and how well the ranks share them."""
    parts, usual = _work(workload, number, ranks), usual_work(workload)
    together_s = len(parts) * t.optimizer_s
    gathered_s = len(parts) * t.gradient_bytes * (ranks - 1) / t.rank_bytes_a_s
    sent_s = t.step_bytes / t.step_bytes_a_s if ranks > 1 else 0.0

    def seconds(shard: Work, usual_s: float, pass_s: float) -> float:
        return shard.seconds((usual_s - usual.passes * pass_s) / usual.cost, pass_s)

    # Experience is computed over all mini-batches before the ranks meet.
    of_ranks = map(added, zip(*parts, strict=True))
    experience_s = [seconds(rank, t.experience_s, t.experience_pass_s) for rank in of_ranks]
    update_s = [
        [seconds(shard, t.update_s - together_s, t.update_pass_s) for shard in part]
        for part in parts
    ]
    slowest_s = sum(map(max, update_s))
    return (
        max(experience_s) + sent_s,
        slowest_s + together_s + gathered_s,
        sum(map(sum, update_s)) / ranks / slowest_s if slowest_s else 1.0,
    )
