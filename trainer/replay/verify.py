"""A run recomputed from its journal, without a server: is every adapter what its rollouts make of it?

Enters: a run's folder. Leaves: a line a step, and where it differs from what the run recorded.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE, adapter_name
from trainer.config.sections import TrainConfig
from trainer.console.tracking import METRICS_FILE, Metrics, read_metrics
from trainer.errors import JournalError, UsageError
from trainer.model.adapter import AdapterState, read_adapter, serialized
from trainer.model.device import compute_device
from trainer.model.roles import PolicyRoles
from trainer.ppo.learner import Learner
from trainer.run_state.checkpoint import (
    Checkpoint,
    load_checkpoint,
    newest_checkpoint,
    torch_version,
)
from trainer.run_state.journal_entries import JOURNAL_FILE, JournaledAdapter
from trainer.run_state.journal_reader import JournalReader
from trainer.run_state.recompute import RecomputedStep, recompute
from trainer.run_state.run_folder import ADAPTERS_FOLDER, read_run_config, start_of

Say = Callable[[str], None]

_DIGITS = 12
"""Of a digest that are shown."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A run that stands at one of its checkpoints, about to do the steps after it again."""

    run_folder: Path
    journal: JournalReader
    learner: Learner
    checkpoint: Checkpoint
    rows: dict[int, Metrics]
    """What the run recorded, by step."""

    @property
    def start(self) -> int:
        """The step that it stands at."""
        return self.checkpoint.progress.step


def open_replay(run_folder: Path, config: TrainConfig, *, from_step: int, say: Say) -> Replay:
    """Load the newest checkpoint that is not after a step.

    Args:
        run_folder: The run's.
        config: The run's, or another to replay it under.
        from_step: 0 is the start.
        say: Gets a line for what may be the reason of a difference.

    Raises:
        UsageError: There is nothing to replay.
        CheckpointError: No such checkpoint is whole.
    """
    journal = JournalReader(run_folder)
    if not journal.last_step:
        raise UsageError(f"{run_folder} has no step in its {JOURNAL_FILE} to replay")
    if from_step >= journal.last_step:
        raise UsageError(
            f"--from {from_step}: the last step in {JOURNAL_FILE} is {journal.last_step}"
        )
    roles = PolicyRoles(
        start_of(config, run_folder),
        device=compute_device(config.run.device),
        serve_dtype=getattr(torch, config.policy.dtype),
    )
    learner = Learner(config, roles)
    folder = newest_checkpoint(run_folder, say, not_after=from_step)
    if (recorded := torch_version(folder)) != torch.__version__:
        say(f"recorded with torch {recorded}, which may round otherwise than {torch.__version__}")
    return Replay(
        run_folder=run_folder,
        journal=journal,
        learner=learner,
        checkpoint=load_checkpoint(folder, roles, learner.update),
        rows={int(row["step"]): row for row in read_metrics(run_folder)},
    )


def verify(run_folder: Path, *, from_step: int, stop_at_first: bool, say: Say) -> bool:
    """Recompute a run and compare journal, metrics and adapters with what comes out.

    Args:
        run_folder: The run's.
        from_step: Start at the newest checkpoint that is not after this step.
        stop_at_first: Stop at the first difference.
        say: Gets every line.

    Returns:
        Whether everything is as it was recorded.

    Raises:
        UsageError: There is nothing to replay.
        CheckpointError: No such checkpoint is whole.
    """
    replay = open_replay(run_folder, read_run_config(run_folder), from_step=from_step, say=say)
    journal = replay.journal
    say(f"steps {replay.start + 1} to {journal.last_step} of {run_folder}, without a server")
    num_differences = 0
    for difference in _differences(replay, say):
        say(f"{'' if num_differences else 'first '}difference: {difference}")
        num_differences += 1
        if stop_at_first:
            return False
    if not num_differences:
        num_adapters = sum(adapter.step >= replay.start for adapter in journal.adapters)
        say(
            f"{journal.last_step - replay.start} steps, {num_adapters} adapters: all digests and "
            "metrics are as recorded"
        )
    return not num_differences


def _differences(replay: Replay, say: Say) -> Iterator[str]:
    """One line for each step that is not as it was recorded; says a line for every step."""
    journal, roles = replay.journal, replay.learner.roles
    for adapter in journal.adapters_of(replay.start):
        yield from _of_adapter(replay, adapter, _digest(roles.rounded_policy(_dtype(adapter))))
    last_s = time.monotonic()
    try:
        for done in recompute(
            journal, replay.learner, replay.checkpoint, last_step=journal.last_step
        ):
            now_s = time.monotonic()
            say(f"{_line(done)} ({now_s - last_s:.2f} s)")
            last_s = now_s
            found = [*_of_metrics(replay, done)]
            for adapter, sha256 in done.adapters:
                found += _of_adapter(replay, adapter, sha256)
            if not done.adapters and done.entry.step < journal.last_step:
                found.append(f"{JOURNAL_FILE} does not say what it published")
            if found:
                yield f"step {done.entry.step}: {'; '.join(found)}"
    except JournalError as error:
        yield str(error)
        return
    if surplus := sorted(step for step in replay.rows if step > journal.last_step):
        yield f"step {surplus[0]}: {METRICS_FILE} has it, {JOURNAL_FILE} has not"
    for number in journal.damaged_lines:
        yield f"{JOURNAL_FILE} line {number} is damaged"


def _line(done: RecomputedStep) -> str:
    ppo = done.ppo
    adapters = [f"{adapter_name(a.version)} {sha256[:_DIGITS]}" for a, sha256 in done.adapters]
    return (
        f"step {done.entry.step:>4} loss {ppo.policy_loss:+.5f} kl {ppo.reference_kl:.4f} "
        f"grad {ppo.policy_grad_norm:.4f} {' '.join(adapters) or 'not published'}"
    )


def _of_metrics(replay: Replay, done: RecomputedStep) -> Iterator[str]:
    """The first quantity that differs from ``metrics.jsonl``."""
    row = replay.rows.get(done.entry.step)
    if row is None:
        if done.entry.step < replay.journal.last_step:
            yield f"{METRICS_FILE} has no line of it"
        return
    finite = {name: value for name, value in done.metrics.items() if math.isfinite(value)}
    # The version is the adapters' matter: a number that was somebody else's has been given up since.
    different = [n for n, value in finite.items() if row.get(n) != value and n != "version"]
    if different:
        name, *others = different
        more = f" (and {len(others)} more quantities)" if others else ""
        yield f"{name} was {row.get(name)} and comes out as {finite[name]}{more}"


def _of_adapter(replay: Replay, adapter: JournaledAdapter, sha256: str) -> Iterator[str]:
    """A difference in the digest, or of the adapter's file where it is still there."""
    name = adapter_name(adapter.version)
    folder = replay.run_folder / ADAPTERS_FOLDER / name
    file = folder / ADAPTER_WEIGHTS_FILE
    on_disk = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
    if sha256 != adapter.sha256:
        yield (f"{name} has digest {adapter.sha256[:_DIGITS]} and comes out as {sha256[:_DIGITS]}")
        if on_disk == adapter.sha256:
            yield _of_tensors(
                read_adapter(folder), replay.learner.roles.rounded_policy(_dtype(adapter))
            )
    elif on_disk not in (None, adapter.sha256):
        yield f"{file} was changed: its digest is {on_disk[:_DIGITS]}"


def _of_tensors(recorded: AdapterState, recomputed: AdapterState) -> str:
    by = {name: float((recorded[name] - t).abs().max()) for name, t in recomputed.items()}
    worst = max(by, key=by.__getitem__)
    num_different = sum(difference > 0 for difference in by.values())
    return f"{num_different} of {len(by)} tensors differ, {worst} the most: by {by[worst]:.3g}"


def _dtype(adapter: JournaledAdapter) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, adapter.dtype)
    return dtype


def _digest(state: AdapterState) -> str:
    return hashlib.sha256(serialized(state)).hexdigest()
