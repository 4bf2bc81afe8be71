"""A step's time by simulation: servers that generate, ranks that train, and the loop that joins them.

Events are those of `trainer/online/loop.py` and `pipeline.py`: a batch is asked as a whole once `max_staleness` allows, each
group of the server with the fewest groups; a version is learned, pushed to all servers, and only then the next batch is
asked. A decoding server gives every sequence a token in `fixed_s + n * per_sequence_s`, so that a batch's last
long completions keep it waiting. Ranks divide a mini-batch as `trainer.model.batches.prefix_tree` and
`trainer.ranks.shards` do. Everything is drawn with a seed: the same case gives the same times.
"""

import heapq
import math
import random
import statistics
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from trainer.model.batches.packing import cut, shard_budget
from trainer.model.batches.rows import pack, row_cost
from trainer.ranks.shards import shards_by_cost

FAMILIES = 2
"""Of arms, each with a system prompt of its own."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """One inference server."""

    fixed_s: float
    """Of a step of decoding, however many sequences there are."""
    per_sequence_s: float
    """Of a step of decoding, for each sequence in it."""
    prefill_s: float = 0.0
    """Of a group's prompts, in which nothing is decoded."""
    max_sequences: int = 256
    """The others wait."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a step generates and trains on."""

    questions: int
    per_mini_batch: int
    """Questions of an optimizer step."""
    arms: int = 8
    prompt_tokens: int
    mean_tokens: float
    """Of a completion; lengths are lognormal."""
    spread: float
    """Standard deviation of the lengths over their mean."""
    max_tokens: int
    token_budget: int
    hidden_size: int
    measured: tuple[tuple[int, ...], ...] = ()
    """Lengths of groups to draw from, instead of a lognormal distribution."""

    def batch(self, number: int) -> list[list[int]]:
        """Tokens of every completion of the groups of a step; the same for the same number."""
        rng = random.Random(number)
        if self.measured:
            return [list(rng.choice(self.measured)) for _ in range(self.questions)]
        variance = math.log(1 + self.spread**2)
        mu = math.log(self.mean_tokens) - variance / 2
        return [
            [self._drawn(rng, mu, math.sqrt(variance)) for _ in range(self.arms)]
            for _ in range(self.questions)
        ]

    def _drawn(self, rng: random.Random, mu: float, sigma: float) -> int:
        return min(self.max_tokens, max(1, round(rng.lognormvariate(mu, sigma))))


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What the ranks do in a step, and what they and the servers tell each other."""

    experience_s: float
    """On one rank; the ranks divide it."""
    update_s: float
    """On one rank; the ranks divide it, but for `optimizer_s`."""
    optimizer_s: float = 0.0
    """Of the update: the optimizer's step of a mini-batch and all else that every rank does alike."""
    experience_pass_s: float = 0.0
    """Of the experience: what a micro-batch takes however small it is."""
    update_pass_s: float = 0.0
    """Of the update, likewise."""
    publish_s: float = 0.0
    """With one server, its bytes' time included."""
    prove_s: float = 0.0
    journal_s: float = 0.0
    adapter_bytes: float = 0.0
    """Of a push."""
    gradient_bytes: float = 0.0
    """Of a mini-batch, from each rank to each other."""
    step_bytes: float = 0.0
    """From the first rank to the others at the start of a step: rollouts and the proximal weights."""
    push_bytes_a_s: float = math.inf
    """Of the first rank's machine to all servers together."""
    rank_bytes_a_s: float = math.inf
    """Of a rank's link for gradients."""
    step_bytes_a_s: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model on given cards."""

    name: str
    decoder: Decoder
    workload: Workload
    trainer: Trainer


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Means over the steady steps of a simulated run, in seconds."""

    step_s: float
    wait_s: float
    """The ranks without rollouts to train on."""
    generate_s: float
    """From a batch's request to its last completion."""
    train_s: float
    """All else of a step: what would be left if rollouts cost nothing."""
    server_idle: float
    """Share of the servers' time in which they have nothing to generate, mean over servers."""
    balance: float
    """Of the ranks: their mean work over that of the one with the most."""


@dataclass(kw_only=True)
class Server:
    """A decoder with its sequences; its own clock advances by events."""

    decoder: Decoder
    now_s: float = 0.0
    idle_s: float = 0.0
    decoded: float = 0.0
    """Tokens that a sequence which was there from the start would have."""
    ends: list[tuple[float, int]] = field(default_factory=list)
    """A heap: where `decoded` will be at each sequence's end, and its batch."""
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    """Tokens and batch of the sequences that have no place yet."""
    prefill_s: float = 0.0
    left: Counter[int] = field(default_factory=Counter)
    """Sequences of each batch that have not ended."""
    finished_s: dict[int, float] = field(default_factory=dict)
    """When the last sequence of each batch ended, so far."""

    def add(self, lengths: Sequence[int], batch: int) -> None:
        self.prefill_s += self.decoder.prefill_s
        self.waiting.extend((length, batch) for length in lengths)
        self.left[batch] += len(lengths)
        self._fill()

    def advance(self, until_s: float) -> None:
        """Generate until then."""
        while self.ends and self.now_s < until_s:
            prefill_s = min(self.prefill_s, until_s - self.now_s)
            self.now_s += prefill_s
            self.prefill_s -= prefill_s
            token_s = self.decoder.fixed_s + len(self.ends) * self.decoder.per_sequence_s
            end, batch = self.ends[0]
            left_s = (end - self.decoded) * token_s
            if self.now_s + left_s > until_s:
                self.decoded += (until_s - self.now_s) / token_s
                self.now_s = until_s
                return
            self.now_s += left_s
            self.decoded = end
            heapq.heappop(self.ends)
            self.left[batch] -= 1
            self.finished_s[batch] = self.now_s
            self._fill()
        if not math.isinf(until_s) and self.now_s < until_s:
            self.idle_s += until_s - self.now_s
            self.now_s = until_s

    def finish(self, batch: int) -> float:
        """When the last sequence of a batch ends; the clock does not go beyond."""
        while self.left[batch]:
            token_s = self.decoder.fixed_s + len(self.ends) * self.decoder.per_sequence_s
            left_s = (self.ends[0][0] - self.decoded) * token_s
            self.advance(math.nextafter(self.now_s + self.prefill_s + left_s, math.inf))
        return self.finished_s.get(batch, 0.0)

    def _fill(self) -> None:
        while self.waiting and len(self.ends) < self.decoder.max_sequences:
            length, batch = self.waiting.popleft()
            heapq.heappush(self.ends, (self.decoded + length, batch))


class Fleet:
    """Servers of one kind."""

    def __init__(self, decoder: Decoder, count: int):
        self.servers = [Server(decoder=decoder) for _ in range(count)]

    def ask(self, groups: Sequence[Sequence[int]], batch: int, now_s: float) -> None:
        """Give each group to the server with the fewest sequences to come."""
        for server in self.servers:
            server.advance(now_s)
        load = [server.left.total() for server in self.servers]
        for lengths in groups:
            least = min(range(len(load)), key=load.__getitem__)
            self.servers[least].add(lengths, batch)
            load[least] += len(lengths)

    def finish(self, batch: int) -> float:
        """When the last completion of a batch ends."""
        return max(server.finish(batch) for server in self.servers)

    def idle_s(self, now_s: float) -> float:
        """Seconds without work until then, of all servers."""
        for server in self.servers:
            server.advance(now_s)
        return sum(server.idle_s for server in self.servers)


def generation_s(decoder: Decoder, workload: Workload, servers: int = 1) -> float:
    """Seconds of a batch that is alone on the servers, mean of eight."""
    times = []
    for number in range(8):
        fleet = Fleet(decoder, servers)
        fleet.ask(workload.batch(number), 0, 0.0)
        times.append(fleet.finish(0))
    return statistics.fmean(times)


def scaled_to(decoder: Decoder, workload: Workload, measured_s: float) -> Decoder:
    """The decoder, quicker or slower, so that a batch alone on it takes as long as was measured."""
    factor = measured_s / generation_s(decoder, workload)
    return replace(
        decoder,
        fixed_s=decoder.fixed_s * factor,
        per_sequence_s=decoder.per_sequence_s * factor,
        prefill_s=decoder.prefill_s * factor,
    )


class Work(NamedTuple):
    """What a rank computes."""

    cost: float
    """Of its tokens, in units of a token without attention."""
    passes: float
    """Micro-batches."""

    def seconds(self, per_cost_s: float, pass_s: float) -> float:
        return self.cost * per_cost_s + self.passes * pass_s


def added(parts: Sequence[Work]) -> Work:
    """Several mini-batches of a rank."""
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
    """What each rank has of each mini-batch of a step."""
    groups, size = workload.batch(number), workload.per_mini_batch
    parts = (groups[i : i + size] for i in range(0, len(groups), size))
    return [shards_of(workload, part, ranks) for part in parts]


@lru_cache(maxsize=64)
def usual_work(workload: Workload) -> Work:
    """A step on one rank, mean of eight."""
    steps = [added([shard for (shard,) in _work(workload, number, 1)]) for number in range(8)]
    return Work(*map(statistics.fmean, zip(*steps, strict=True)))


def training(case: Case, number: int, ranks: int) -> tuple[float, float, float]:
    """Seconds of a step's experience and of its update, and how well the ranks share them."""
    t, parts = case.trainer, _work(case.workload, number, ranks)
    usual = usual_work(case.workload)
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


def simulate(case: Case, *, servers: int, ranks: int, staleness: int, steps: int = 18) -> Outcome:
    """Run the loop for some steps and a few before them that do not count."""
    t, fleet, num_warm_up = case.trainer, Fleet(case.decoder, servers), 6
    publish_s = t.publish_s + t.adapter_bytes * (servers - 1) / t.push_bytes_a_s
    asked_s: deque[float] = deque()
    now_s = started_s = idle_s = 0.0
    waits, generations, balances = [], [], []
    num_asked = 0
    for step in range(num_warm_up + steps):
        if step == num_warm_up:
            started_s, idle_s = now_s, fleet.idle_s(now_s)
        while len(asked_s) <= staleness:
            fleet.ask(case.workload.batch(num_asked), num_asked, now_s)
            asked_s.append(now_s)
            num_asked += 1
        finished_s = fleet.finish(step)
        experience_s, update_s, balance = training(case, step, ranks)
        if step >= num_warm_up:
            waits.append(max(0.0, finished_s - now_s))
            generations.append(finished_s - asked_s[0])
            balances.append(balance)
        asked_s.popleft()
        now_s = max(now_s, finished_s)
        now_s += experience_s + t.prove_s + t.journal_s + update_s + publish_s
    took_s = now_s - started_s
    return Outcome(
        step_s=took_s / steps,
        wait_s=statistics.fmean(waits),
        generate_s=statistics.fmean(generations),
        train_s=(took_s - sum(waits)) / steps,
        server_idle=(fleet.idle_s(now_s) - idle_s) / servers / took_s,
        balance=statistics.fmean(balances),
    )
