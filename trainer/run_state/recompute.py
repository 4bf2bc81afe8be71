"""Recomputes a run from a checkpoint and the journal's steps after it, without a server."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter

import torch

from inference_server.wire.digests import sha256_of_bytes
from trainer.errors import JournalError
from trainer.io.metrics_file import Metrics
from trainer.model.adapter import AdapterState, serialized
from trainer.model.batches.sample import Sample
from trainer.ppo.diagnostics import UpdateMetrics
from trainer.ppo.learner import Learner
from trainer.rollouts.rows import RolloutRow
from trainer.run_state.checkpoint import Checkpoint, load_step
from trainer.run_state.journal_entries import JournaledAdapter, JournaledStep
from trainer.run_state.journal_reader import JournalReader


@dataclass(frozen=True, kw_only=True)
class RecomputedStep:
    """A journaled step, recomputed."""

    entry: JournaledStep
    ppo: UpdateMetrics
    adapters: tuple[tuple[JournaledAdapter, str], ...]
    """The adapters that were published after it, each with the digest of its recomputed weights."""

    @property
    def metrics(self) -> Metrics:
        """The step's metrics, without those that exist only in a run with a server."""
        metrics = {**self.entry.metrics, **self.ppo.by_name()}
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
    token_budget: int | None = None,
) -> Iterator[RecomputedStep]:
    """Do the steps after a checkpoint again, one at a time.

    Args:
        journal: The run's journal.
        learner: In the checkpoint's state; each step changes it.
        checkpoint: Where to start.
        last_step: Where to stop.
        samples_of: The samples of a group that train; by default those that the run trained on.
        learning_rate_scale: A step's factor on the learning rates; by default the run's.
        token_budget: The most tokens of any micro-batch; None uses the run's own budget of each step. If the GPU
            runs out of memory, the later steps have the budget that did fit, or their own if it is smaller.

    Raises:
        JournalError: The rollouts of a step are missing, damaged or of another base model.
        CheckpointError: The run went back to a step whose checkpoint is damaged or gone.
    """
    served = dict(checkpoint.served)
    start, fits = checkpoint.progress.step, sys.maxsize
    for adapter, weights in _published(journal, start, learner):
        served[adapter.version] = weights
    for step in range(start + 1, last_step + 1):
        entry = journal.step(step)
        vocab_size = learner.roles.vocab_size
        groups = [samples_of(group) for group in journal.groups(entry, vocab_size=vocab_size)]
        if entry.version not in served:
            raise JournalError(step, f"version {entry.version}, which generated it, is not known")
        recorded = next((a.token_budget for a in journal.adapters_of(step)), None)
        # A run that was killed in a step's update has no adapter of the step, and so no budget.
        budget = min(token_budget or recorded or learner.token_budget, fits)
        with (
            _threads(entry.num_threads),
            _micro_batches(learner, budget, num_shards=entry.num_ranks),
        ):
            ppo = learner.step(
                step,
                groups,
                served[entry.version],
                learning_rate_scale=learning_rate_scale(entry),
            )
            if learner.token_budget < budget:
                fits = learner.token_budget
        adapters = []
        for adapter, weights in _published(journal, step, learner):
            served[adapter.version] = weights
            adapters.append((adapter, sha256_of_bytes(serialized(weights))))
        yield RecomputedStep(entry=entry, ppo=ppo, adapters=tuple(adapters))
        wanted = {batch.version for batch in entry.pending} | {a.version for a, _ in adapters}
        served = {version: state for version, state in served.items() if version in wanted}


def _published(
    journal: JournalReader, step: int, learner: Learner
) -> Iterator[tuple[JournaledAdapter, AdapterState]]:
    """The versions that were published after a step, in order; leaves the learner in the next step's starting state."""
    for adapter in journal.adapters_of(step):
        if adapter.returned_to is not None:
            load_step(journal.run_folder, adapter.returned_to, learner.roles, learner.update)
        yield adapter, learner.roles.rounded_policy(getattr(torch, adapter.dtype))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _micro_batches(learner: Learner, token_budget: int, *, num_shards: int) -> Iterator[None]:
    """Give the learner another token budget and number of shards within the block.

    A budget that the learner has halved in the block is also the most that its own is afterwards.
    """
    own_budget, own_shards = learner.token_budget, learner.update.num_shards
    learner.token_budget, learner.update.num_shards = token_budget, num_shards
    try:
        yield
    finally:
        if learner.token_budget == token_budget:
            learner.token_budget = own_budget
        learner.token_budget = min(own_budget, learner.token_budget)
        learner.update.num_shards = own_shards
