"""A run's journal: what every step trained on and what was published of it, durably and in order.

``journal.jsonl`` gets a line for a step before its update, once the step's rollouts are on disk, and a
line for each published adapter before it is pushed. Every line carries a checksum of its own, and that of
a step the digest of its rollouts. From a checkpoint and the lines after it, `trainer.run_state.recompute` arrives
where the run was.
"""

import fcntl
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from trainer.errors import JournalError, UsageError
from trainer.io.durable import append, fsync, write_file
from trainer.rollouts.groups import RolloutRow, ScoredGroup
from trainer.rollouts.questions import PendingQuestions

JOURNAL_FILE = "journal.jsonl"
ROLLOUTS_FOLDER = "rollouts"

_CHECK_HEX_DIGITS = 16
_PREFIX, _MIDDLE, _END = b'{"check":"', b'","entry":', b"}\n"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JournaledStep(_Entry):
    """All that the update of a step needs beside its rollouts, and where the run stands after it."""

    kind: Literal["step"] = "step"
    step: int
    version: int
    """The version that generated the rollouts: the proximal policy."""
    rollouts_sha256: str = ""
    """Of ``rollouts/step-….jsonl``."""
    learning_rate_scale: float
    num_threads: int
    """Of the trainer; another number rounds sums otherwise."""
    cursor: int
    """Of the questions, as are the next two; see `QuestionState`."""
    pending: tuple[PendingQuestions, ...]
    solved: dict[str, bool]
    """Every question that was asked for the step, to whether all its completions were right."""
    metrics: dict[str, float]
    """Of the rollouts."""


class JournaledAdapter(_Entry):
    """A version of the policy after some step."""

    kind: Literal["adapter"] = "adapter"
    step: int
    version: int
    sha256: str
    """Of its weights file."""
    dtype: str
    """What its weights were rounded to, e.g. ``float32``."""


_ENTRY: TypeAdapter[JournaledStep | JournaledAdapter] = TypeAdapter(
    Annotated[JournaledStep | JournaledAdapter, Field(discriminator="kind")]
)


class JournalReader:
    """The journal of a run as it was when this was made; a run that goes on does not disturb it."""

    def __init__(self, run_folder: Path):
        """Read it through; a run without one has an empty one.

        A last line that is torn does not count: it was being written when the run was killed.
        """
        self._run_folder = run_folder
        self._path = run_folder / JOURNAL_FILE
        self._offsets: dict[int, int] = {}
        self._adapters: dict[int, list[JournaledAdapter]] = {}
        self.damaged_lines: list[int] = []
        """Counted from 1."""
        self.num_bytes = 0
        """Without a torn last line."""
        if self._path.exists():
            self._read()

    def _read(self) -> None:
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                entry = _parse(line)
                if entry is None:
                    self.damaged_lines.append(number)
                    end = self.num_bytes
                elif isinstance(entry, JournaledStep):
                    self._offsets[entry.step] = self.num_bytes
                else:
                    self._adapters.setdefault(entry.step, []).append(entry)
                self.num_bytes += len(line)
        if self.damaged_lines and self.damaged_lines[-1] == number:
            self.damaged_lines.pop()
            self.num_bytes = end

    @property
    def last_step(self) -> int:
        """The newest step that is in it; 0 where none is."""
        return max(self._offsets, default=0)

    @property
    def last_step_at_bytes(self) -> int:
        """Where its line begins."""
        return self._offsets.get(self.last_step, 0)

    @property
    def next_version(self) -> int:
        """The lowest number above all that the run has used."""
        return max((adapter.version for adapter in self.adapters), default=-1) + 1

    @property
    def adapters(self) -> list[JournaledAdapter]:
        """All that were published, in order of steps."""
        return [adapter for step in sorted(self._adapters) for adapter in self._adapters[step]]

    def adapters_of(self, step: int) -> list[JournaledAdapter]:
        """What was published after a step (0 is the start); several where a number was taken."""
        return self._adapters.get(step, [])

    def step(self, step: int) -> JournaledStep:
        """The line of a step.

        Raises:
            JournalError: There is none, or it is damaged.
        """
        if step not in self._offsets:
            damaged = [f"line {number} is damaged" for number in self.damaged_lines[:1]]
            raise JournalError(step, "; ".join([f"{self._path} has no line of it", *damaged]))
        with self._path.open("rb") as file:
            file.seek(self._offsets[step])
            entry = _parse(file.readline())
        if not isinstance(entry, JournaledStep):
            raise JournalError(step, f"{self._path} changed while it was read")
        return entry

    def groups(self, entry: JournaledStep) -> list[RolloutRow]:
        """The groups that a step trained on.

        Raises:
            JournalError: The file is missing, or is not the one that was written.
        """
        path = rollouts_file(self._run_folder, entry.step)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise JournalError(entry.step, f"{path}: {error.strerror}") from None
        if (sha256 := hashlib.sha256(data).hexdigest()) != entry.rollouts_sha256:
            raise JournalError(
                entry.step,
                f"{path} was changed: its checksum is {sha256[:12]}…, and the journal has "
                f"{entry.rollouts_sha256[:12]}…",
            )
        return [RolloutRow.model_validate_json(line) for line in data.splitlines()]


class Journal:
    """The journal of a run in progress; there is one process at a time that has it open."""

    def __init__(self, run_folder: Path):
        """Open it, or begin one.

        Raises:
            UsageError: Another process has it open.
        """
        self._run_folder = run_folder
        path = run_folder / JOURNAL_FILE
        is_new = not path.exists()
        self._file = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UsageError(
                f"another trainer is at work in {run_folder}; stop it, or choose another run.folder"
            ) from None
        self.past = JournalReader(run_folder)
        """What was in it when it was opened."""
        self._file.truncate(self.past.num_bytes)
        self._last_step_at_bytes = self.past.last_step_at_bytes
        if is_new:
            fsync(run_folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write_step(self, groups: Sequence[ScoredGroup], entry: JournaledStep) -> None:
        """Put a step on disk before it is trained on.

        Args:
            groups: Those that train.
            entry: Its line, whose digest is filled in here.
        """
        lines = [to_json(group.to_json(entry.step)) + b"\n" for group in groups]
        data = b"".join(lines)
        write_file(rollouts_file(self._run_folder, entry.step), data)
        sha256 = hashlib.sha256(data).hexdigest()
        self._last_step_at_bytes = os.fstat(self._file.fileno()).st_size
        self._append(entry.model_copy(update={"rollouts_sha256": sha256}))

    def take_back(self, step: int) -> None:
        """Forget the step that was written last, of which nothing was published."""
        self._file.truncate(self._last_step_at_bytes)
        os.fsync(self._file.fileno())
        rollouts_file(self._run_folder, step).unlink()

    def write_adapter(self, adapter: JournaledAdapter) -> None:
        """Take note of a version before it gets a folder and is pushed."""
        self._append(adapter)

    def _append(self, entry: JournaledStep | JournaledAdapter) -> None:
        body = entry.model_dump_json().encode()
        append(self._file, _PREFIX + _check(body) + _MIDDLE + body + _END, wait=True)


def rollouts_file(run_folder: Path, step: int) -> Path:
    """Where a step's rollouts are."""
    return run_folder / ROLLOUTS_FOLDER / f"step-{step:06d}.jsonl"


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:_CHECK_HEX_DIGITS].encode()


def _parse(line: bytes) -> JournaledStep | JournaledAdapter | None:
    """None of a line that is damaged."""
    check = slice(len(_PREFIX), len(_PREFIX) + _CHECK_HEX_DIGITS)
    body = line[check.stop + len(_MIDDLE) : -len(_END)]
    if line != _PREFIX + _check(body) + _MIDDLE + body + _END:
        return None
    try:
        return _ENTRY.validate_json(body)
    except ValidationError:
        return None
