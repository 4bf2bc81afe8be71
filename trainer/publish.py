"""From trained weights to a served version: write the adapter durably, push it, activate it."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from anyio.from_thread import BlockingPortal

from inference_server.schemas import AdapterInfo, adapter_name
from trainer.client import ArmsClient
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
        """Export the policy, push it under a number of its own and make it the served one."""
        started = time.monotonic()
        version = self._next_version()
        final = self.folder_of(version)
        unfinished = final.with_name(final.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        roles.export_policy(unfinished)
        for path in [*unfinished.iterdir(), unfinished]:
            _fsync(path)
        unfinished.rename(final)
        _fsync(self._folder)
        info: AdapterInfo = self._portal.call(self._client.push_adapter, version, final)
        return Published(
            version=version,
            folder=final,
            sha256=info.sha256,
            seconds=time.monotonic() - started,
        )


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
