"""Records the questions that a run asks in its folder, so that each start can say if the data were changed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config.sections import DataConfig
from trainer.data.contamination import data_lines
from trainer.data.sources import Record
from trainer.io.durable import write_file
from trainer.run_state.recorded_digests import differing, recorded, short_digest

QUESTIONS_FILE = "questions.json"
"""For each setting that names a source, this file has the digests of the source's questions, in order."""
_IN_A_RUN = "the steps to come learn from what is there now, and the curriculum knows questions by their ids"


@dataclass(frozen=True, kw_only=True)
class SourceQuestions:
    """The questions of a source."""

    records: Sequence[Record]
    """All of them; these are recorded, so that another server's context is no change of the data."""
    asked: Sequence[Record]
    """Those that fit the server's context."""


class QuestionRecord:
    """The questions of a start, compared with those of the run's last start."""

    def __init__(
        self,
        folder: Path,
        data: DataConfig,
        training: SourceQuestions,
        held_out: SourceQuestions | None,
        *,
        consequence: str = _IN_A_RUN,
    ):
        """Compare; nothing is written before `write`.

        Args:
            folder: The run's folder, or another that lasts as long as the work.
            data: Names the sources.
            training: The questions to train on.
            held_out: The questions to evaluate with; None if nothing is evaluated.
            consequence: What a start with other questions means for the steps to come.
        """
        self._path = folder / QUESTIONS_FILE
        self._recorded = _recorded(self._path)
        self._found = dict(self._recorded)
        evaluation = None if held_out is None else held_out.asked
        self.lines = data_lines(data.source, training.asked, data.held_out_source, evaluation)
        """Lines about repeated questions, and about changes since the run's last start."""
        for setting, source, questions in (
            ("data.source", data.source, training),
            ("data.evaluation_source", data.held_out_source, held_out),
        ):
            if questions is None:
                continue
            now = self._found[setting] = [_digest(record) for record in questions.records]
            then = self._recorded.get(setting)
            if then is not None and then != now:
                self.lines.append(
                    f"warning: {setting} {source} was changed since this run's last start: "
                    f"{_change(questions.records, then, now, consequence)}"
                )

    def write(self) -> None:
        """Record the questions; to be called once the run is restored, since a start that fails asks none."""
        if self._found != self._recorded:
            write_file(self._path, json.dumps(self._found).encode())


def _recorded(path: Path) -> dict[str, list[str]]:
    """The recorded digests by setting; empty if there are none that can be read."""
    found = recorded(path)
    if not isinstance(found, dict):
        return {}
    return {name: digests for name, digests in found.items() if isinstance(digests, list)}


def _digest(record: Record) -> str:
    """Digest of every field that affects the question's prompts and rewards."""
    kind = record.answer_type.name
    content = [record.id, record.question, record.gold, kind, dict(record.columns)]
    return short_digest(json.dumps(content, sort_keys=True).encode())


def _change(
    records: Sequence[Record], then: Sequence[str], now: Sequence[str], consequence: str
) -> str:
    """What has changed, in words."""
    others = differing([record.id for record in records], then, now)
    counts = f"{len(then)} questions then, {len(now)} now"
    if not others:
        return f"{counts}, the others as they were"
    differ = "1 question differs" if len(others) == 1 else f"{len(others)} questions differ"
    return f"{differ}, {others[0]} first ({counts}); {consequence}"
