"""What a file of collected rollouts has already: which questions, with which golds, and of which policies."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from regime_w.answer_types.answer_type import AnswerTypeName
from trainer.config.safe_text import shortened
from trainer.data.sources import Record
from trainer.errors import DataError, UsageError
from trainer.io.jsonl import cut_off, read_rows, truncated_bytes
from trainer.io.run_layout import ROLLOUTS_FOLDER, belongs_to_run


class _CollectedRow(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str
    question: str
    gold_answer: str = ""
    answer_type: AnswerTypeName = "number"
    choices: tuple[str, ...] = ()
    policy_version: int | None = None
    adapter_sha256: str | None = None
    """None of the base."""
    base_fingerprint: str | None = None
    """None if the server did not know it."""


@dataclass(frozen=True, kw_only=True)
class CollectedRows:
    """The complete rows of a file."""

    ids: set[str] = field(default_factory=set)
    policies: Counter[tuple[int | None, str | None]] = field(default_factory=Counter)
    """How many rows each version, with the digest of its weights, has; see `_CollectedRow`."""
    bases: Counter[str] = field(default_factory=Counter)
    """How many rows each base has, by its fingerprint; rows without one are not counted."""


def require_no_run_file(output: Path) -> None:
    """Refuse a file among the rollouts of a run, which has its own journal of them.

    Raises:
        UsageError: Names the folder.
    """
    # Wherever a link or a relative path leads, and in subfolders, too.
    for folder in Path(os.path.realpath(output)).parents:
        if folder.name == ROLLOUTS_FOLDER and belongs_to_run(folder.parent):
            raise UsageError(
                f"output: {folder} is for the rollouts of the run; choose another output"
            )


def collected_rows(
    output: Path, records: Sequence[Record], say: Callable[[str], None]
) -> CollectedRows:
    """A file's complete rows; a truncated last row is removed.

    Args:
        output: The file, which need not exist.
        records: The data now.
        say: Gets a line if there is a file that is not empty.

    Raises:
        DataError: A row is not one of a collection, or its question, gold answer, answer type or choices are not those
            of the data any more.
    """
    found = CollectedRows()
    size_bytes = output.stat().st_size if output.exists() else 0
    if not size_bytes:
        return found
    if num_bytes := truncated_bytes(output):
        if num_bytes < size_bytes:
            # Its first row, before a byte is cut off: this may be a file of something else.
            next(read_rows(output, _CollectedRow), None)
        cut_off(output, num_bytes)
    by_id = {record.id: record for record in records}
    for number, row in read_rows(output, _CollectedRow):
        if (record := by_id.get(row.id)) is not None:
            _require_unchanged(row, record, f"{output}:{number}")
        found.ids.add(row.id)
        found.policies[row.policy_version, row.adapter_sha256] += 1
        if row.base_fingerprint is not None:
            found.bases[row.base_fingerprint] += 1
    truncated = f"; removed a truncated row of {num_bytes} bytes" if num_bytes else ""
    say(f"{output} has {len(found.ids)} questions{truncated}; resuming after them")
    return found


def _require_unchanged(row: _CollectedRow, record: Record, where: str) -> None:
    if row.question != record.question:
        raise DataError(
            f"{where}: {row.id} is another question in the file than in the data; choose another output"
        )
    kind = record.answer_type
    for name, before, now in (
        ("gold_answer", row.gold_answer, record.gold),
        ("answer_type", row.answer_type, kind.name),
        ("choices", row.choices, tuple(kind.choices)),
    ):
        if before != now:
            raise DataError(
                f"{where}: {name} of {row.id} is {shortened(repr(before))} in the file and {shortened(repr(now))} "
                "in the data, so its scores and rewards are of another answer: remove the row, and its question is "
                "asked again, or choose another output"
            )
