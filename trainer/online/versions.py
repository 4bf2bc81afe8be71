"""From trained weights to a served version: journal it, write the adapter durably, push, activate.

What a step published is in the journal before anything else happens, so a run that is killed anywhere
between comes back with the same version.
"""

import hashlib
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anyio.from_thread import BlockingPortal

from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE, AdapterInfo, adapter_name
from trainer.errors import ServerRejectedError, SyncError
from trainer.io.durable import finish_folder, new_folder, remove_folder, unfinished
from trainer.model.adapter import AdapterState, read_adapter
from trainer.model.roles import PolicyRoles
from trainer.online.serving import Serving
from trainer.run_state.journal import Journal
from trainer.run_state.journal_entries import JournaledAdapter

_CONFLICT = 409


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version that the server has confirmed."""

    version: int
    folder: Path
    sha256: str
    seconds: float
    """Writing, uploading and activating together."""
    activated: bool = True
    """Whether ``policy`` moved to it."""


class Publisher:
    """Owns a run's ``adapters/`` folder and the run's version numbers on the server."""

    def __init__(self, folder: Path, journal: Journal, serving: Serving, portal: BlockingPortal):
        """``folder`` is made where it is missing."""
        self._folder = folder
        self._journal = journal
        self._serving = serving
        self._portal = portal
        self._next_version = journal.past.next_version
        folder.mkdir(parents=True, exist_ok=True)
        past = journal.past.adapters
        self._adapters = {
            adapter.version: adapter
            for adapter in past
            if self.folder_of(adapter.version).exists() or adapter.step == past[-1].step
        }
        """Those whose folders are there, or were about to be when the run was killed."""

    def folder_of(self, version: int) -> Path:
        """Where a version's adapter is."""
        return self._folder / adapter_name(version)

    def weights_of(self, version: int) -> AdapterState:
        """What a version is served with."""
        return read_adapter(self.folder_of(version))

    def step_of(self, version: int) -> int:
        """The step that a version is of, whose adapter is still here; the start is 0."""
        return self._adapters[version].step

    def version_of(self, step: int) -> int | None:
        """The version of a step, where its adapter is still here."""
        of_step = [a.version for a in self._adapters.values() if a.step == step]
        return max(of_step, default=None)

    def publish(self, step: int, roles: PolicyRoles) -> Published:
        """Export the policy, push it under a number of its own and make it the served one.

        What was published of this step before, by a run that was killed, keeps its number.

        Args:
            step: That the policy is of.
            roles: Hold it.

        Raises:
            SyncError: The server acknowledges something else than was pushed.
        """
        started = time.monotonic()
        while True:
            adapter = self._write(step, roles)
            final = self.folder_of(adapter.version)
            try:
                info = self._portal.call(self._serving.push, adapter.version)
            except ServerRejectedError as error:
                if error.status != _CONFLICT:
                    raise
                # The number is somebody else's by now; the next one is taken from the server anew.
                del self._adapters[adapter.version]
                remove_folder(final)
            else:
                break
        _require_acknowledged(adapter, info)
        return Published(
            version=adapter.version,
            folder=final,
            sha256=adapter.sha256,
            seconds=time.monotonic() - started,
        )

    def _write(self, step: int, roles: PolicyRoles) -> JournaledAdapter:
        """The policy in a folder of its own, whose number and digest the journal has."""
        exported = new_folder(self._folder / "next")
        roles.export_policy(exported)
        sha256 = _digest(exported / ADAPTER_WEIGHTS_FILE)
        # Of several the last: the number of one before it was somebody else's.
        for adapter in reversed(self._adapters.values()):
            if (adapter.step, adapter.sha256) == (step, sha256):
                break
        else:
            adapter = JournaledAdapter(
                step=step,
                version=self._take_number(),
                sha256=sha256,
                dtype=str(roles.serve_dtype).removeprefix("torch."),
            )
            self._journal.write_adapter(adapter)
            self._adapters[adapter.version] = adapter
        final = self.folder_of(adapter.version)
        exported.rename(unfinished(final))
        finish_folder(final)
        return adapter

    def _take_number(self) -> int:
        """The lowest number that neither the server nor this run has used.

        A number is never used twice: vLLM's prefix cache knows an adapter by name and path.
        """
        on_server = self._portal.call(self._serving.next_version)
        version = max(on_server, self._next_version)
        self._next_version = version + 1
        return version

    def serve_again(self, version: int) -> Published | None:
        """Make sure that the server has an earlier version, for rollouts that are still to come of it.

        Returns:
            None where that cannot be: its adapter is not here any more, or the server has another one
            under its number.
        """
        started = time.monotonic()
        adapter, folder = self._adapters.get(version), self.folder_of(version)
        try:
            if adapter is None or _digest(folder / ADAPTER_WEIGHTS_FILE) != adapter.sha256:
                return None
            info = self._portal.call(partial(self._serving.push, version, activate=False))
        except OSError:
            return None
        except ServerRejectedError as error:
            if error.status != _CONFLICT:
                raise
            return None
        return Published(
            version=version,
            folder=folder,
            sha256=info.sha256,
            seconds=time.monotonic() - started,
            activated=False,
        )

    def retain(self, num_kept: int, others: Collection[int]) -> None:
        """Remove all adapters but the newest and some others.

        Args:
            num_kept: How many of the newest stay.
            others: Versions that stay as well.
        """
        for version in sorted(self._adapters)[:-num_kept]:
            if version not in others:
                del self._adapters[version]
                if self.folder_of(version).exists():
                    remove_folder(self.folder_of(version))


def save_adapter(roles: PolicyRoles, final: Path) -> None:
    """Write the policy, rounded as it is served, into a folder that is durable and whole or not there."""
    roles.export_policy(new_folder(final))
    finish_folder(final)


def _require_acknowledged(adapter: JournaledAdapter, info: AdapterInfo) -> None:
    if (info.version, info.sha256, info.active) != (adapter.version, adapter.sha256, True):
        state = "active" if info.active else "not active"
        raise SyncError(
            f"pushed version {adapter.version} with digest {adapter.sha256}, and the server "
            f"acknowledges version {info.version}, {state}, with digest {info.sha256}"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
