"""Reads a run's journal: for a resume, for a replay, and for anyone who looks at a run in progress."""

from pathlib import Path

from inference_server.wire.digests import sha256_of_bytes
from trainer.errors import DataError, JournalError
from trainer.io.jsonl import parse_own_row
from trainer.io.paths import open_plain, read_plain
from trainer.io.run_layout import JOURNAL_FILE
from trainer.rollouts.rows import RolloutRow, flaw_in_tokens
from trainer.run_state.journal_entries import (
    JournaledAdapter,
    JournaledStep,
    parse_line,
    rollouts_file,
)


class JournalReader:
    """A run's journal as it is when this object is made; lines that the run appends later are not seen."""

    def __init__(self, run_folder: Path):
        """Read the whole file; a missing journal counts as empty.

        A truncated last line is ignored: it was being written when the run was killed.
        """
        self.run_folder = run_folder
        self._path = run_folder / JOURNAL_FILE
        self._offsets: dict[int, int] = {}
        self._adapters: dict[int, list[JournaledAdapter]] = {}
        self._steps_at: dict[int, int] = {}
        """For the offset of each undamaged line, the line's step."""
        self.damaged_lines: dict[int, int] = {}
        """For the number of each damaged line, counted from 1, the offset of its first byte."""
        self.reward_sources: list[tuple[int, dict[str, str]]] = []
        """The steps from which on rewards came from changed sources, each with the digests; see `JournaledStep`."""
        self.num_bytes = 0
        """The size of the file without a truncated last line."""
        if self._path.exists():
            self._read()

    def _read(self) -> None:
        with open(self._path, "rb", opener=open_plain) as lines:
            for number, line in enumerate(lines, 1):
                entry = parse_line(line)
                if entry is None:
                    self.damaged_lines[number] = self.num_bytes
                elif isinstance(entry, JournaledStep):
                    self._offsets[entry.step] = self.num_bytes
                    before = self.reward_sources[-1][1] if self.reward_sources else {}
                    if entry.reward_sources != before:
                        self.reward_sources.append((entry.step, entry.reward_sources))
                else:
                    self._adapters.setdefault(entry.step, []).append(entry)
                if entry is not None:
                    self._steps_at[self.num_bytes] = entry.step
                self.num_bytes += len(line)
        if self.damaged_lines and max(self.damaged_lines) == number:
            self.num_bytes = self.damaged_lines.pop(number)

    @property
    def last_step(self) -> int:
        """The newest journaled step; 0 if there is none."""
        return max(self._offsets, default=0)

    @property
    def last_step_at_bytes(self) -> int:
        """The offset of the newest step's line."""
        return self._offsets.get(self.last_step, 0)

    @property
    def next_version(self) -> int:
        """One more than the highest version that the run has used; 0 if there is none."""
        return max((adapter.version for adapter in self.adapters), default=-1) + 1

    @property
    def adapters(self) -> list[JournaledAdapter]:
        """All published versions, in order of steps."""
        return [adapter for step in sorted(self._adapters) for adapter in self._adapters[step]]

    def adapters_of(self, step: int) -> list[JournaledAdapter]:
        """The versions published after a step; 0 is the start.

        There are several if another run had taken a number, or if the run went back to an earlier step.
        """
        return self._adapters.get(step, [])

    def step(self, step: int) -> JournaledStep:
        """The entry of a step.

        Raises:
            JournalError: The entry is missing or damaged.
        """
        if step not in self._offsets:
            damaged = [f"line {number} is damaged" for number in sorted(self.damaged_lines)[:1]]
            raise JournalError(
                step, "; ".join([f"{self._path} has no line for this step", *damaged])
            )
        with open(self._path, "rb", opener=open_plain) as file:
            file.seek(self._offsets[step])
            entry = parse_line(file.readline())
        if not isinstance(entry, JournaledStep):
            raise JournalError(step, f"{self._path} changed while it was read")
        return entry

    def num_bytes_before(self, step: int) -> int:
        """How many bytes come before the lines of a step and before damaged lines directly ahead of these.

        Cut off there, the file is the journal of a run that was killed before the step.
        """
        later = (offset for offset, of_step in self._steps_at.items() if of_step >= step)
        end = min(later, default=self.num_bytes)
        before = max((offset for offset in self._steps_at if offset < end), default=-1)
        return min((o for o in self.damaged_lines.values() if before < o < end), default=end)

    def groups(self, entry: JournaledStep, *, vocab_size: int | None = None) -> list[RolloutRow]:
        """The groups that a step trained on.

        Args:
            entry: The step's entry.
            vocab_size: How many tokens the base model has; None skips the check of token ids.

        Raises:
            JournalError: The file is missing, its digest is not the journaled one, or a line of it cannot be
                trained on.
        """
        path = rollouts_file(self.run_folder, entry.step)
        try:
            data = read_plain(path)
        except OSError as error:
            raise JournalError(entry.step, f"{path}: {error.strerror}") from None
        if (sha256 := sha256_of_bytes(data)) != entry.rollouts_sha256:
            raise JournalError(
                entry.step,
                f"{path} was changed: its checksum is {sha256[:12]}…, and the journal has "
                f"{entry.rollouts_sha256[:12]}…",
            )
        try:
            return [
                _trainable(line, f"{path}:{number}", vocab_size)
                for number, line in enumerate(data.splitlines(), 1)
            ]
        except DataError as error:
            raise JournalError(entry.step, str(error)) from None


def _trainable(line: bytes, where: str, vocab_size: int | None) -> RolloutRow:
    row = parse_own_row(RolloutRow, line, where)
    for arm in row.arm_outputs:
        if not arm.has_tokens:
            raise DataError(f"{where}: {arm.arm_name}: no token_ids with their sampler_logprobs")
    if vocab_size is not None and (flaw := flaw_in_tokens(row.arm_outputs, vocab_size)):
        raise DataError(f"{where}: {flaw}")
    return row
