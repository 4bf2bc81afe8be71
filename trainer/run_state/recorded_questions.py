"""Records the questions that a run asks in its folder, so that each start can say if the data were changed."""

import json
from collections.abc import Sequence
from pathlib import Path

from inference_server.wire.digests import sha256_of_bytes
from trainer.config.sections import DataConfig
from trainer.data.contamination import data_lines
from trainer.data.sources import Record
from trainer.io.durable import write_file

QUESTIONS_FILE = "questions.json"
"""For each setting that names a source, this file has the digests of the source's questions, in order."""
_DIGEST_HEX_DIGITS = 8


def question_lines(
    folder: Path, data: DataConfig, training: Sequence[Record], held_out: Sequence[Record] | None
) -> list[str]:
    """Lines about a start's questions: repeated questions, and changes since the run's last start.

    The questions of this start are recorded.

    Args:
        folder: The run's folder.
        data: Names the sources.
        training: The questions to train on.
        held_out: The questions to evaluate with; None if nothing is evaluated.
    """
    lines = data_lines(data.source, training, data.held_out_source, held_out)
    path = folder / QUESTIONS_FILE
    recorded = _recorded(path)
    found = dict(recorded)
    for setting, source, records in (
        ("data.source", data.source, training),
        ("data.evaluation_source", data.held_out_source, held_out or []),
    ):
        if not records:
            continue
        found[setting] = [_digest(record) for record in records]
        if setting in recorded and (change := _change(records, recorded[setting], found[setting])):
            lines.append(
                f"warning: {setting} {source} was changed since this run's last start: {change}"
            )
    if found != recorded:
        write_file(path, json.dumps(found).encode())
    return lines


def _recorded(path: Path) -> dict[str, list[str]]:
    """The recorded digests; empty if a run is older than such records, or if they cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: digests for name, digests in found.items() if isinstance(digests, list)}


def _digest(record: Record) -> str:
    """Digest of every field that affects the question's prompts and rewards."""
    kind = record.answer_type.name
    content = [record.id, record.question, record.gold, kind, dict(record.columns)]
    return sha256_of_bytes(json.dumps(content, sort_keys=True).encode())[:_DIGEST_HEX_DIGITS]


def _change(records: Sequence[Record], then: Sequence[str], now: Sequence[str]) -> str | None:
    """What has changed, in words; None if nothing has."""
    if list(then) == list(now):
        return None
    others = [r.id for r, old, new in zip(records, then, now, strict=False) if old != new]
    counts = f"{len(then)} questions then, {len(now)} now"
    if not others:
        return f"{counts}, the others as they were"
    differ = "1 question differs" if len(others) == 1 else f"{len(others)} questions differ"
    return (
        f"{differ}, {others[0]} first ({counts}); the steps to come learn from what is there now, and the "
        "curriculum knows questions by their ids"
    )
