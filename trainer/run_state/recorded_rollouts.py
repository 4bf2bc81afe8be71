"""Records the rows that a run from a file trains on in its folder, so that it does not resume on others.

A checkpoint says how many positions of the shuffled rows are done. Among other rows, these positions are of other rows:
some would train twice in an epoch, and some never.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import DataError
from trainer.io.durable import write_file
from trainer.run_state.recorded_digests import differing, recorded, short_digest

ROLLOUTS_FILE = "rollouts.json"
"""The digests of the rows that are trained on, in order."""


def require_same_rollouts(
    folder: Path, path: Path, rows: Sequence[tuple[int, bytes]], *, has_begun: bool
) -> None:
    """Compare the rows with those that the run began with; they are recorded if there is no record yet.

    Args:
        folder: The run's folder.
        path: The file of rollouts.
        rows: Number and content of each of its lines that is trained on, in order.
        has_begun: Whether there is a checkpoint to resume from.

    Raises:
        DataError: The rows are not those that the run began with.
    """
    record = folder / ROLLOUTS_FILE
    now = [short_digest(line) for _, line in rows]
    then = recorded(record) if has_begun else None
    if not isinstance(then, list):
        write_file(record, json.dumps(now).encode())
    elif then != now:
        numbers = [number for number, _ in rows]
        raise DataError(
            f"{path} was changed since {folder} began to train on it: {_change(numbers, then, now)}. Put the file back "
            "as it was, or train on it in another run.folder"
        )


def _change(numbers: Sequence[int], then: Sequence[str], now: Sequence[str]) -> str:
    counts = f"{len(then)} rows then, {len(now)} now"
    others = differing(numbers, then, now)
    if not others:
        return f"{counts}, the first {min(len(then), len(now))} as they were"
    return f"line {others[0]} is the first that differs ({counts})"
