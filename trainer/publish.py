"""From trained weights to a served version: write the adapter durably, push it, activate it."""

import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from anyio.from_thread import BlockingPortal

from inference_server.schemas import ADAPTER_WEIGHTS_FILE, AdapterInfo, adapter_name
from trainer.client import ArmsClient
from trainer.errors import SyncError
from trainer.policy import PolicyRoles


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version that the server has confirmed."""

    version: int
    folder: Path
    sha256: str
    seconds: float
    """Writing, uploading and activating together."""


class Publisher:
    """Owns a run's ``adapters/`` folder and the run's version numbers on the server."""

    def __init__(self, folder: Path, client: ArmsClient, portal: BlockingPortal):
        """``folder`` is made where it is missing."""
        self._folder = folder
        self._client = client
        self._portal = portal
        folder.mkdir(parents=True, exist_ok=True)

    def folder_of(self, version: int) -> Path:
        """Where a version's adapter is."""
        return self._folder / adapter_name(version)

    def _next_version(self) -> int:
        """The lowest number that neither the server nor this run has used.

        A number is never used twice: vLLM's prefix cache knows an adapter by name and path.
        """
        used = [int(path.name.rsplit("-", 1)[1]) for path in self._folder.glob("policy-??????")]
        on_server = self._portal.call(self._client.status).next_version
        return max([on_server, *(version + 1 for version in used)])

    def publish(self, roles: PolicyRoles) -> Published:
        """Export the policy, push it under a number of its own and make it the served one.

        Raises:
            SyncError: The server acknowledges something else than was pushed.
        """
        started = time.monotonic()
        version = self._next_version()
        final = self.folder_of(version)
        save_adapter(roles, final)
        info: AdapterInfo = self._portal.call(self._client.push_adapter, version, final)
        sha256 = _digest(final / ADAPTER_WEIGHTS_FILE)
        if (info.version, info.sha256, info.active) != (version, sha256, True):
            state = "active" if info.active else "not active"
            raise SyncError(
                f"pushed version {version} with digest {sha256}, and the server acknowledges version "
                f"{info.version}, {state}, with digest {info.sha256}"
            )
        return Published(
            version=version,
            folder=final,
            sha256=sha256,
            seconds=time.monotonic() - started,
        )


def save_adapter(roles: PolicyRoles, final: Path) -> None:
    """Write the policy, rounded as it is served, into a folder that is durable and whole or not there."""
    unfinished = final.with_name(final.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    roles.export_policy(unfinished)
    for path in [*unfinished.iterdir(), unfinished]:
        _fsync(path)
    # A step that is redone after a resume replaces its adapter.
    shutil.rmtree(final, ignore_errors=True)
    unfinished.rename(final)
    _fsync(final.parent)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
