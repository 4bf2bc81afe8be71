"""A run's journal: what every step trained on and which adapters were published, durably and in order.

A step's rollouts, and then its line, are on disk before its update; an adapter's line is on disk before its push.
From a checkpoint and the lines after it, `trainer.run_state.recompute` restores the run.
"""

import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Self

from inference_server.wire.digests import sha256_of_bytes
from trainer.errors import UsageError
from trainer.io.durable import append, fsync, write_file
from trainer.io.locks import is_locked, lock
from trainer.io.paths import open_plain
from trainer.io.run_layout import JOURNAL_FILE
from trainer.rollouts.groups import ScoredGroup
from trainer.rollouts.rows import rollout_lines
from trainer.run_state.journal_entries import (
    JournaledAdapter,
    JournaledStep,
    rollouts_file,
    to_line,
)
from trainer.run_state.journal_reader import JournalReader


def is_at_work(run_folder: Path) -> bool:
    """Whether a process has a run's journal open to write; nothing is changed."""
    return is_locked(run_folder / JOURNAL_FILE)


class Journal:
    """The journal of a run in progress; only one process at a time has it open."""

    def __init__(self, run_folder: Path):
        """Open the journal, or start one.

        Raises:
            UsageError: Another process has it open.
        """
        self._run_folder = run_folder
        path = run_folder / JOURNAL_FILE
        is_new = not path.exists()
        self._file = FileIO(path, "ab", opener=open_plain)
        try:
            lock(
                self._file,
                path,
                taken=f"another trainer is at work in {run_folder}; stop it, or choose another run.folder",
            )
        except UsageError:
            self._file.close()
            raise
        self.past = JournalReader(run_folder)
        """The journal's content when it was opened."""
        self._file.truncate(self.past.num_bytes)
        self.last_step = self.past.last_step
        """The newest step in the journal; 0 if there is none."""
        self._last_step_at_bytes = self.past.last_step_at_bytes
        if is_new:
            fsync(run_folder)

    def __enter__(self) -> Self:
        """Nothing to do: the journal is open."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file, so that another process can open the journal."""
        self._file.close()

    def write_step(self, groups: Sequence[ScoredGroup], entry: JournaledStep) -> None:
        """Write a step to disk before it is trained on.

        Args:
            groups: The groups that train.
            entry: The step's line; the digest of the rollouts is filled in here.
        """
        data = rollout_lines(groups, entry.step)
        write_file(rollouts_file(self._run_folder, entry.step), data)
        self._last_step_at_bytes = os.fstat(self._file.fileno()).st_size
        self._append(entry.model_copy(update={"rollouts_sha256": sha256_of_bytes(data)}))
        self.last_step = entry.step

    def take_back(self, step: int) -> None:
        """Remove the last written step; nothing may have been published after it."""
        self._file.truncate(self._last_step_at_bytes)
        os.fsync(self._file.fileno())
        rollouts_file(self._run_folder, step).unlink()
        self.last_step = step - 1

    def write_adapter(self, adapter: JournaledAdapter) -> None:
        """Write a version's line before its folder is written and pushed."""
        self._append(adapter)

    def _append(self, entry: JournaledStep | JournaledAdapter) -> None:
        append(self._file, to_line(entry), wait=True)
