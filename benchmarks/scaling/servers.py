"""Simulated inference servers: in each decoding step a server adds one token to every sequence that it decodes.

A step with n sequences takes `fixed_s + n * per_sequence_s`, so that a batch's last long completions hold the server up.
"""

import heapq
import math
import statistics
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from benchmarks.scaling.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """One inference server."""

    fixed_s: float
    """Part of a decoding step that does not depend on the number of sequences."""
    per_sequence_s: float
    """Part of a decoding step for each sequence in it."""
    prefill_s: float = 0.0
    """For a group's prompts; meanwhile nothing is decoded."""
    max_sequences: int = 256
    """How many are decoded at once; the others wait."""


@dataclass(kw_only=True)
class Server:
    """A decoder with its sequences; its own clock advances by events."""

    decoder: Decoder
    now_s: float = 0.0
    idle_s: float = 0.0
    decoded: float = 0.0
    """Tokens that a sequence decoded from the start on would have by now."""
    ends: list[tuple[float, int]] = field(default_factory=list)
    """A heap: for each sequence, the value of `decoded` at its end, and its batch."""
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    """Tokens and batch of each sequence that has no place yet."""
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
        """Generate until ``until_s``."""
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
        """When the last sequence of a batch ends; the clock does not advance beyond that."""
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
        """Give each group to the server with the fewest unfinished sequences."""
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
        """Seconds without work until ``now_s``, summed over all servers."""
        for server in self.servers:
            server.advance(now_s)
        return sum(server.idle_s for server in self.servers)


def generation_s(decoder: Decoder, workload: Workload, servers: int = 1) -> float:
    """Seconds for a batch that is alone on the servers, as the mean of eight batches."""
    times = []
    for number in range(8):
        fleet = Fleet(decoder, servers)
        fleet.ask(workload.batch(number), 0, 0.0)
        times.append(fleet.finish(0))
    return statistics.fmean(times)


def scaled_to(decoder: Decoder, workload: Workload, measured_s: float) -> Decoder:
    """The decoder, made faster or slower so that a batch alone on it takes the measured time."""
    factor = measured_s / generation_s(decoder, workload)
    return replace(
        decoder,
        fixed_s=decoder.fixed_s * factor,
        per_sequence_s=decoder.per_sequence_s * factor,
        prefill_s=decoder.prefill_s * factor,
    )
