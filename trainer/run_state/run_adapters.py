"""A run's ``adapters/`` folder: one durable folder for each version, whose number and digest are in the journal.

A version is in the journal before its folder gets its final name and before it is pushed, so that a run that is
killed anywhere in between resumes with the same version.
"""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch

from inference_server.wire.digests import sha256_of_file
from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE, adapter_name
from trainer.io.durable import finish_folder, new_folder, remove_folder, unfinished
from trainer.io.run_layout import version_folders
from trainer.model.adapter import AdapterState, read_adapter
from trainer.model.roles import PolicyRoles
from trainer.run_state.journal import Journal
from trainer.run_state.journal_entries import JournaledAdapter


def save_adapter(roles: PolicyRoles, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write the policy into a folder, atomically, rounded to ``dtype`` or else to the dtype in which it is served."""
    roles.export_policy(new_folder(folder), dtype)
    finish_folder(folder)


def retain_newest(run_folder: Path, num_kept: int, others: Collection[int]) -> None:
    """Remove all adapters of a run without a journal but the ``num_kept`` newest and the versions in ``others``."""
    folders = version_folders(run_folder)
    for version in list(folders)[:-num_kept]:
        if version not in others:
            remove_folder(folders[version])


class RunAdapters:
    """The versions of a run that are on its disk."""

    def __init__(self, folder: Path, journal: Journal):
        """``folder`` is made if it is missing; ``journal`` is the run's."""
        self._folder = folder
        self._journal = journal
        self._next_version = journal.past.next_version
        folder.mkdir(parents=True, exist_ok=True)
        past = journal.past.adapters
        self._adapters = {
            adapter.version: adapter
            for adapter in past
            if self.folder_of(adapter.version).exists() or adapter.step == past[-1].step
        }
        """The versions whose folders exist, or were about to be written when the run was killed."""
        self._returns = {a.step: a.returned_to for a in past if a.returned_to is not None}
        self._last_return = max((a.version for a in past if a.returned_to is not None), default=-1)

    def folder_of(self, version: int) -> Path:
        """Where a version's adapter is."""
        return self._folder / adapter_name(version)

    def weights_of(self, version: int) -> AdapterState:
        """The weights that a version is served with."""
        return read_adapter(self.folder_of(version))

    def sha256_of(self, version: int) -> str:
        """Digest of a version's weights file as it is on the disk.

        Raises:
            OSError: The file is not there.
        """
        return sha256_of_file(self.folder_of(version) / ADAPTER_WEIGHTS_FILE)

    def is_whole(self, version: int) -> bool:
        """Whether a version's weights are on the disk and have the digest that is in the journal."""
        adapter = self._adapters.get(version)
        try:
            return adapter is not None and self.sha256_of(version) == adapter.sha256
        except OSError:
            return False

    def step_of(self, version: int) -> int:
        """The step after which a version was published; 0 is the start. Only for versions that are still kept."""
        return self._adapters[version].step

    def version_of(self, step: int) -> int | None:
        """The version that was published after a step; None if it is not kept any more."""
        of_step = [a.version for a in self._adapters.values() if a.step == step]
        return max(of_step, default=None)

    @property
    def returned_to(self) -> set[int]:
        """The steps to which the run went back; recomputing what came after such a return needs their checkpoints."""
        return set(self._returns.values())

    def is_since_return(self, version: int) -> bool:
        """Whether a version is that of the last return or a newer one; always true if the run never went back."""
        return version >= self._last_return

    def return_to(self, earlier: int, *, after: int) -> None:
        """Note that what is written from now on for the step ``after`` is the policy of the step ``earlier``."""
        self._returns[after] = earlier

    def before(self, version: int) -> Iterator[int]:
        """The kept versions older than a version, newest first; each is checked only when it is reached."""
        return (v for v in sorted(self._adapters, reverse=True) if v < version and self.is_whole(v))

    def write(
        self,
        step: int,
        roles: PolicyRoles,
        next_on_server: Callable[[], int],
        *,
        token_budget: int,
    ) -> JournaledAdapter:
        """Write the policy after a step under a version number of its own.

        If a killed run gave the same weights of the same step a number already, they keep it.

        Args:
            step: Counted from 1; 0 is the start.
            roles: Hold the policy.
            next_on_server: Asks the server for the lowest number that it never had.
            token_budget: The most tokens of one of the step's micro-batches.
        """
        exported = new_folder(self._folder / "next")
        roles.export_policy(exported)
        sha256 = sha256_of_file(exported / ADAPTER_WEIGHTS_FILE)
        # Newest first: if the same weights also have an older number, another run has taken that one.
        for adapter in reversed(self._adapters.values()):
            if (adapter.step, adapter.sha256) == (step, sha256):
                break
        else:
            # A number is never used twice: vLLM's prefix cache knows an adapter by name and path.
            version = max(next_on_server(), self._next_version)
            self._next_version = version + 1
            adapter = JournaledAdapter(
                step=step,
                version=version,
                sha256=sha256,
                dtype=str(roles.serve_dtype).removeprefix("torch."),
                token_budget=token_budget,
                returned_to=self._returns.get(step),
            )
            self._journal.write_adapter(adapter)
            self._adapters[version] = adapter
            if adapter.returned_to is not None:
                self._last_return = version
        folder = self.folder_of(adapter.version)
        exported.rename(unfinished(folder))
        finish_folder(folder)
        return adapter

    def remove(self, version: int) -> None:
        """Remove a version's folder, if it exists, and give up its number."""
        del self._adapters[version]
        if self.folder_of(version).exists():
            remove_folder(self.folder_of(version))

    def retain(self, num_kept: int, others: Collection[int]) -> None:
        """Remove all versions but the ``num_kept`` newest and those in ``others``."""
        for version in sorted(self._adapters)[:-num_kept]:
            if version not in others:
                self.remove(version)
