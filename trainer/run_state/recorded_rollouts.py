"""Records the rows that a run from a file trains on in its folder, so that it does not resume on others.

A checkpoint says how many positions of the shuffled rows are done. Among other rows, these positions are of other rows:
some would train twice in an epoch, and some never.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from inference_server.wire.digests import sha256_of_bytes
from trainer.errors import DataError
from trainer.io.durable import write_file

ROLLOUTS_FILE = "rollouts.json"
"""The digests of the rows that are trained on, in order."""
_DIGEST_HEX_DIGITS = 8


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
    now = [sha256_of_bytes(line)[:_DIGEST_HEX_DIGITS] for _, line in rows]
    # A run that was begun by an earlier version has no record.
    then = _recorded(record) if has_begun else None
    if then is None:
        write_file(record, json.dumps(now).encode())
    elif then != now:
        numbers = [number for number, _ in rows]
        raise DataError(
            f"{path} was changed since {folder} began to train on it: {_change(numbers, then, now)}. Put the file back "
            "as it was, or train on it in another run.folder"
        )


def _recorded(path: Path) -> list[str] | None:
    """The recorded digests; None if there are none, or if they cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) else None


def _change(numbers: Sequence[int], then: Sequence[str], now: Sequence[str]) -> str:
    counts = f"{len(then)} rows then, {len(now)} now"
    others = [n for n, old, new in zip(numbers, then, now, strict=False) if old != new]
    if not others:
        return f"{counts}, the first {min(len(then), len(now))} as they were"
    return f"line {others[0]} is the first that differs ({counts})"
