"""Simulates the time of a step: servers that generate, ranks that train, and the loop that joins them.

The events are those of `trainer/online/loop.py` and `pipeline.py`: a batch is asked for as a whole once `max_staleness`
allows it, and each of its groups goes to the server with the fewest groups. A version is trained and pushed to all
servers before the next batch is asked for. All random draws are seeded: the same case gives the same times.
"""

import statistics
from collections import deque
from dataclasses import dataclass

from benchmarks.scaling.ranks import Trainer, training
from benchmarks.scaling.servers import Decoder, Fleet
from benchmarks.scaling.workload import Workload


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
    """How long the ranks wait for rollouts to train on."""
    generate_s: float
    """From a batch's request to its last completion."""
    train_s: float
    """All else of a step: what would be left if rollouts cost nothing."""
    server_idle: float
    """Share of the servers' time in which they have nothing to generate, mean over servers."""
    balance: float
    """The ranks' mean work divided by the work of the rank that has the most."""


def simulate(case: Case, *, servers: int, ranks: int, staleness: int, steps: int = 18) -> Outcome:
    """Run the loop for ``steps`` steps, after a few steps that do not count."""
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
        experience_s, update_s, balance = training(t, case.workload, step, ranks)
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
