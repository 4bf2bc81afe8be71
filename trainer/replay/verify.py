"""Recomputes a run from its journal, without a server, and compares it with what the run recorded.

Input: a run's folder. Output: one line per step, and one more for each step that differs.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from inference_server.wire.digests import sha256_of_bytes, sha256_of_file
from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE, adapter_name
from trainer.errors import JournalError
from trainer.io.kept_settings import read_run_config
from trainer.io.metrics_file import METRICS_FILE
from trainer.io.run_layout import ADAPTERS_FOLDER, JOURNAL_FILE
from trainer.model.adapter import AdapterState, read_adapter, serialized
from trainer.model.roles import Role
from trainer.replay.restored_run import Replay, Say, open_replay
from trainer.run_state.journal_entries import JournaledAdapter
from trainer.run_state.recompute import RecomputedStep, recompute

_DIGITS = 12
"""Digits of a digest to show."""

RELATIVE, ABSOLUTE = 0.2, 0.02
"""How far a metric may be from the record on another device, which rounds differently: as a fraction, and in absolute
terms. One of the two suffices."""
MOVED = 0.5
"""How far weights may be from the record on another device, as a fraction of how far they have moved since the
checkpoint: AdamW moves a weight by the learning rate however small its gradient is, so rounding decides the sign of
many of these moves."""


def verify(run_folder: Path, *, from_step: int, stop_at_first: bool, say: Say) -> bool:
    """Recompute a run and compare the results with its journal, metrics and adapters.

    Args:
        run_folder: The run's folder.
        from_step: Start at the newest checkpoint that is not after this step.
        stop_at_first: Stop at the first difference.
        say: Called with every line of output.

    Returns:
        Whether everything is equal to what was recorded.

    Raises:
        UsageError: The journal has no step, or none after ``from_step``.
        CheckpointError: No such checkpoint is complete.
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
        found = "all digests and metrics are as recorded"
        if not replay.is_exact:
            found = (
                f"metrics are within {RELATIVE:.0%} or {ABSOLUTE} of what was recorded, adapters that are kept "
                f"within {MOVED:.0%} of how far they moved"
            )
        say(f"{journal.last_step - replay.start} steps, {num_adapters} adapters: {found}")
    return not num_differences


def _differences(replay: Replay, say: Say) -> Iterator[str]:
    """One line for each step that differs from the record; calls ``say`` with a line for every step."""
    journal, roles = replay.journal, replay.learner.roles
    start = roles.adapter_state(Role.POLICY)
    for adapter in journal.adapters_of(replay.start):
        if adapter.returned_to is not None:
            break
        yield from _of_adapter(
            replay, adapter, _digest(roles.rounded_policy(_dtype(adapter))), start
        )
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
                found += _of_adapter(replay, adapter, sha256, start)
            if not done.adapters and done.entry.step < journal.last_step:
                found.append(f"{JOURNAL_FILE} has no adapter for this step")
            if found:
                yield f"step {done.entry.step}: {'; '.join(found)}"
    except JournalError as error:
        yield str(error)
        return
    if surplus := sorted(step for step in replay.rows if step > journal.last_step):
        yield f"step {surplus[0]}: is in {METRICS_FILE} but not in {JOURNAL_FILE}"
    for number in journal.damaged_lines:
        yield f"{JOURNAL_FILE} line {number} is damaged"


def _line(done: RecomputedStep) -> str:
    ppo = done.ppo
    adapters = [f"{adapter_name(a.version)} {sha256[:_DIGITS]}" for a, sha256 in done.adapters]
    learned = (
        "no completion has a reward"
        if math.isnan(ppo.policy_loss)
        else f"loss {ppo.policy_loss:+.5f} kl {ppo.reference_kl:.4f} grad {ppo.policy_grad_norm:.4f}"
    )
    return f"step {done.entry.step:>4} {learned} {' '.join(adapters) or 'not published'}"


def _of_metrics(replay: Replay, done: RecomputedStep) -> Iterator[str]:
    """The first metric that differs from ``metrics.jsonl``."""
    row = replay.rows.get(done.entry.step)
    if row is None:
        if done.entry.step < replay.journal.last_step:
            yield f"{METRICS_FILE} has no line for this step"
        return
    finite = {name: value for name, value in done.metrics.items() if math.isfinite(value)}
    # Versions are compared with the adapters: a number that the server had already used was skipped.
    different = [
        n
        for n, value in finite.items()
        if n != "version" and not _is_same(replay, n, row.get(n), value)
    ]
    if different:
        name, *others = different
        more = f" (and {len(others)} more metrics)" if others else ""
        yield f"{name} was recorded as {row.get(name)} and recomputed as {finite[name]}{more}"


def _is_same(replay: Replay, name: str, recorded: float | None, value: float) -> bool:
    """Whether a metric is as it was recorded, up to the rounding of another device."""
    if replay.is_exact or recorded is None:
        return recorded == value
    # The largest of many roundings has no bound of its own.
    return name.endswith("_max") or math.isclose(
        recorded, value, rel_tol=RELATIVE, abs_tol=ABSOLUTE
    )


def _of_adapter(
    replay: Replay, adapter: JournaledAdapter, sha256: str, start: AdapterState
) -> Iterator[str]:
    """A difference in the digest, or a changed file if the adapter still exists."""
    name = adapter_name(adapter.version)
    folder = replay.run_folder / ADAPTERS_FOLDER / name
    file = folder / ADAPTER_WEIGHTS_FILE
    on_disk = sha256_of_file(file) if file.is_file() else None
    if sha256 != adapter.sha256 and not replay.is_exact:
        if on_disk == adapter.sha256:
            recomputed = replay.learner.roles.rounded_policy(_dtype(adapter))
            yield from _of_moves(name, start, read_adapter(folder), recomputed)
        elif on_disk is not None:
            yield f"{file} was changed: its digest is {on_disk[:_DIGITS]}"
    elif sha256 != adapter.sha256:
        yield f"{name} has digest {adapter.sha256[:_DIGITS]}, recomputed {sha256[:_DIGITS]}"
        if on_disk == adapter.sha256:
            yield _of_tensors(
                read_adapter(folder), replay.learner.roles.rounded_policy(_dtype(adapter))
            )
    elif on_disk not in (None, adapter.sha256):
        yield f"{file} was changed: its digest is {on_disk[:_DIGITS]}"


def _of_moves(
    name: str, start: AdapterState, recorded: AdapterState, recomputed: AdapterState
) -> Iterator[str]:
    """A line if the weights of two runs from the same start differ by more than rounding explains."""
    apart, moved = (
        math.sqrt(sum(float((a[key].float() - b[key].float()).square().sum()) for key in a))
        for a, b in ((recorded, recomputed), (recorded, start))
    )
    if apart > MOVED * moved:
        yield f"{name} is {apart:.3g} from what was recorded, which moved by {moved:.3g}"


def _of_tensors(recorded: AdapterState, recomputed: AdapterState) -> str:
    by = {name: float((recorded[name] - t).abs().max()) for name, t in recomputed.items()}
    worst = max(by, key=by.__getitem__)
    num_different = sum(difference > 0 for difference in by.values())
    return f"{num_different} of {len(by)} tensors differ, {worst} the most, by {by[worst]:.3g}"


def _dtype(adapter: JournaledAdapter) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, adapter.dtype)
    return dtype


def _digest(state: AdapterState) -> str:
    return sha256_of_bytes(serialized(state))
