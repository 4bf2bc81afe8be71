"""From a checkpoint through the journal's steps to where the run was, without a server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter

import torch

from inference_server.wire.digests import sha256_of_bytes
from trainer.console.tracking import Metrics
from trainer.errors import JournalError
from trainer.model.adapter import serialized
from trainer.model.batch import Sample
from trainer.ppo.diagnostics import UpdateMetrics
from trainer.ppo.learner import Learner
from trainer.rollouts.rows import RolloutRow
from trainer.run_state.checkpoint import Checkpoint
from trainer.run_state.journal_entries import JournaledAdapter, JournaledStep
from trainer.run_state.journal_reader import JournalReader


@dataclass(frozen=True, kw_only=True)
class RecomputedStep:
    """A journaled step, done again."""

    entry: JournaledStep
    ppo: UpdateMetrics
    adapters: tuple[tuple[JournaledAdapter, str], ...]
    """What was published of it, each with the digest that it has now."""

    @property
    def metrics(self) -> Metrics:
        """The step's metrics, but for what only a run with a server knows."""
        metrics = {**self.entry.metrics, **self.ppo.to_json()}
        if self.adapters:
            newest, _ = self.adapters[-1]
            metrics["version"] = newest.version
        return metrics


def recompute(
    journal: JournalReader,
    learner: Learner,
    checkpoint: Checkpoint,
    *,
    last_step: int,
    samples_of: Callable[[RolloutRow], list[Sample]] = attrgetter("samples"),
    learning_rate_scale: Callable[[JournaledStep], float] = attrgetter("learning_rate_scale"),
) -> Iterator[RecomputedStep]:
    """Do the steps after a checkpoint again, one at a time.

    Args:
        journal: Of the run.
        learner: With the checkpoint's state, which moves on.
        checkpoint: Where to start.
        last_step: The last one to do.
        samples_of: What trains of a group; what did, unless something else is asked for.
        learning_rate_scale: Of a step, likewise.

    Raises:
        JournalError: What a step trained on is missing or damaged.
    """
    served = dict(checkpoint.served)
    start = checkpoint.progress.step
    for adapter in journal.adapters_of(start):
        served[adapter.version] = learner.roles.rounded_policy(getattr(torch, adapter.dtype))
    for step in range(start + 1, last_step + 1):
        entry = journal.step(step)
        groups = [samples_of(group) for group in journal.groups(entry)]
        if entry.version not in served:
            raise JournalError(step, f"version {entry.version}, which generated it, is not known")
        with _threads(entry.num_threads):
            mini_batches = learner.experience(step, groups, served[entry.version])
            ppo = learner.learn(step, mini_batches, learning_rate_scale=learning_rate_scale(entry))
        adapters = []
        for adapter in journal.adapters_of(step):
            weights = learner.roles.rounded_policy(getattr(torch, adapter.dtype))
            served[adapter.version] = weights
            adapters.append((adapter, sha256_of_bytes(serialized(weights))))
        yield RecomputedStep(entry=entry, ppo=ppo, adapters=tuple(adapters))
        wanted = {batch.version for batch in entry.pending} | {a.version for a, _ in adapters}
        served = {version: state for version, state in served.items() if version in wanted}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
