"""The file of a run's metrics, metrics.jsonl: a line of JSON for each step.

A line has at most one evaluation. One that ends when the line of its step is written already, or has
another evaluation, gets a line of its own ("late"): the step, the time, and the names that begin with ``eval/``.
``time`` is when the line was written, in seconds since 1970.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import FiniteFloat, Strict, TypeAdapter, ValidationError

from trainer.errors import DataError
from trainer.io.paths import open_plain, read_plain

METRICS_FILE = "metrics.jsonl"

_YEAR_10000 = 253_402_300_800
_LIMITS = {
    **dict.fromkeys(("step", "num_steps", "version"), 2**63),
    **dict.fromkeys(("time", "time/step_s"), _YEAR_10000),
}
"""Metrics that a page shows as numbers of steps or as times; one that is below 0 or not below its limit is damaged."""
_LARGEST = 1e100
"""More than any metric; sums and squares of many such numbers are finite."""
_TAIL_BYTES = 2**20
"""More than the newest lines have."""

Metrics = dict[str, float]
"""Metrics of one step: names such as ``ppo/approx_kl`` to values."""
_Row = TypeVar("_Row", bound=Mapping[str, float])
_METRICS = TypeAdapter(dict[str, Annotated[FiniteFloat, Strict()]])


def read_metrics(run_folder: Path) -> list[Metrics]:
    """Every step's metrics, oldest first, without a truncated last line and without late evaluations.

    Raises:
        DataError: A line other than the last is damaged; names the line.
    """
    return read_with_late(run_folder)[0]


def read_with_late(run_folder: Path) -> tuple[list[Metrics], list[Metrics]]:
    """As `read_metrics`, and the evaluations that have a line of their own, oldest first.

    Raises:
        DataError: As `read_metrics` raises it.
    """
    path, steps, late = run_folder / METRICS_FILE, list[Metrics](), list[Metrics]()
    for _, row in read_lines(path) if path.is_file() else ():
        (late if is_late(row) else steps).append(row)
    return steps, late


def newest_time(run_folder: Path) -> float | None:
    """When the line of the newest step was written; None if there is no such line, or it lacks its time."""
    try:
        with open(run_folder / METRICS_FILE, "rb", opener=open_plain) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            rows = map(metrics_row, reversed(file.read().splitlines()))
    except FileNotFoundError:
        return None
    newest = next((row for row in rows if row is not None and not is_late(row)), {})
    return newest.get("time")


def with_late(rows: Sequence[_Row], late_evaluations: Sequence[_Row]) -> list[_Row]:
    """Rows of steps and late evaluations in the order in which they were measured."""
    return sorted([*rows, *late_evaluations], key=itemgetter("step"))


def time_trained(rows: Sequence[Metrics]) -> float | None:
    """Seconds of all steps, without the pauses between a run's starts; None if a step up to the newest lacks its time.

    Steps lack it if ``metrics.jsonl`` was lost, also those that are computed again from the journal.

    Args:
        rows: Rows of steps, oldest first.
    """
    seconds = [row["time/step_s"] for row in rows if "time/step_s" in row]
    return math.fsum(seconds) if rows and len(seconds) >= rows[-1]["step"] else None


def measured(row: Mapping[str, float]) -> Metrics:
    """What a line says, without its step and the time at which it was written."""
    return {name: value for name, value in row.items() if name not in ("step", "time")}


def is_late(row: Metrics) -> bool:
    """Whether a line has only an evaluation; see the module's docstring."""
    names = measured(row)
    return bool(names) and all(name.startswith("eval/") for name in names)


def read_lines(path: Path) -> Iterator[tuple[bytes, Metrics]]:
    """The lines of a file, if there is one, and their metrics; see `read_metrics`."""
    lines = read_plain(path).splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        row = metrics_row(line)
        if row is not None:
            yield line, row
        elif number < len(lines):
            raise DataError(f"{path}:{number}: not a line of metrics; remove it")


def metrics_row(line: bytes) -> Metrics | None:
    """The metrics of a line; None for one that is truncated or damaged."""
    try:
        row = _METRICS.validate_json(line)
    except ValidationError:
        return None
    is_whole = "step" in row and all(0 <= row.get(n, 0) < limit for n, limit in _LIMITS.items())
    return row if is_whole and all(abs(value) <= _LARGEST for value in row.values()) else None
