"""The adapter versions that the engine holds: loaded, leased, retired.

A version is loaded under its own name and path (``policy-000012``) and never changes. vLLM's prefix
cache is keyed by both, so other weights under a reused name would be served cached results of the old ones.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inference_server.adapters.identity import AdapterIdentity
from inference_server.adapters.probe import require_finite
from inference_server.adapters.storage import AdapterFolder, StagedAdapter, remove_path
from inference_server.engine import Engine, EngineAdapter
from inference_server.errors import Busy, NotFound
from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE, adapter_name

POLICY_ALIAS = "policy"
# Where the adapters' routes name a version.
_FIELD = "version"

# Longest time between the end of a completion and the arrival of its abort in the engine, with a wide margin.
_ABORT_GRACE_S = 0.2


@dataclass(kw_only=True, slots=True)
class _Version:
    """A version that the engine holds."""

    version: int
    adapter: EngineAdapter
    identity: AdapterIdentity
    size_bytes: int
    created_at: float
    """Unix time of the upload, in seconds."""
    num_groups: int = 0
    """Groups that lease the version, whether or not their requests have reached the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _RetiredFiles:
    """Files of a version that the engine no longer holds."""

    path: Path
    needed_until_s: float
    """By the event loop's clock."""


class LoadedVersions:
    """Loads, leases and retires versions within the engine's capacity; moves the alias ``policy``.

    Calls that change the set of versions must not overlap; leases may be taken at any time.

    Args:
        engine: Holds the adapters.
        folder: Holds their files.
        max_loaded: Most versions held at a time. After an upload, versions without requests are retired
            until there is room for the next one.
    """

    def __init__(self, engine: Engine, folder: AdapterFolder, max_loaded: int) -> None:
        """See the class."""
        self._engine = engine
        self._folder = folder
        # Beyond its own limit the engine drops the least recently used adapter, leased or not.
        self.max_loaded = min(max_loaded, engine.traits.max_loaded_adapters)
        # In order of upload.
        self._versions: dict[int, _Version] = {}
        self._active: int | None = None
        # Oldest first.
        self._retired: deque[_RetiredFiles] = deque()
        self._lora_ids = itertools.count(1)

    def __len__(self) -> int:
        """Number of loaded versions."""
        return len(self._versions)

    def __contains__(self, version: int) -> bool:
        """Whether a version is loaded."""
        return version in self._versions

    @property
    def active(self) -> int | None:
        """The version that ``policy`` stands for; None is the base."""
        return self._active

    @property
    def num_leases(self) -> int:
        """Requests in flight on any version."""
        return sum(self._num_leases(held) for held in self._versions.values())

    def num_leases_of(self, version: int) -> int:
        """Requests in flight on one version.

        Raises:
            NotFound: It is not loaded.
        """
        return self._num_leases(self._find(version))

    def infos(self) -> list[AdapterInfo]:
        """Every loaded version, in order of upload."""
        return [self._info(held) for held in self._versions.values()]

    def info(self, version: int, *, field: str = _FIELD) -> AdapterInfo:
        """One version, which the request names in ``field``.

        Raises:
            NotFound: It is not loaded.
        """
        return self._info(self._find(version, field))

    @contextmanager
    def lease(self, version: int | None) -> Iterator[EngineAdapter | None]:
        """Keeps a version loaded while an arms request's group is generated; None is the base.

        Raises:
            NotFound: It is not loaded.
        """
        if version is None:
            yield None
            return
        held = self._find(version, "policy")
        held.num_groups += 1
        try:
            yield held.adapter
        finally:
            held.num_groups -= 1

    async def load(self, version: int, stored: StagedAdapter, identity: AdapterIdentity) -> None:
        """Loads a version from its files, tries it, and serves it under its name.

        Raises:
            AdapterRejected: The engine cannot use it, or it does not compute finite numbers; nothing
                changed.
        """
        adapter = EngineAdapter(
            lora_id=next(self._lora_ids), name=adapter_name(version), path=stored.folder
        )
        await self._engine.load(adapter)
        try:
            await require_finite(self._engine, adapter)
        except BaseException:
            await self._engine.unload(adapter)
            raise
        self._versions[version] = _Version(
            version=version,
            adapter=adapter,
            identity=identity,
            size_bytes=stored.size_bytes,
            created_at=(stored.folder / ADAPTER_WEIGHTS_FILE).stat().st_mtime,
        )
        self._engine.publish(adapter.name, adapter)

    def activate(self, version: int) -> None:
        """Moves ``policy`` to a loaded version; requests in flight finish on theirs.

        Raises:
            NotFound: It is not loaded.
        """
        adapter = self._find(version).adapter
        self._active = version
        self._engine.publish(POLICY_ALIAS, adapter)

    async def retire(self, version: int) -> None:
        """Unloads a version; `remove_retired_files` removes its files later."""
        held = self._versions.pop(version)
        self._engine.withdraw(held.adapter.name)
        self._folder.mark_retired(held.adapter.path)
        await self._engine.unload(held.adapter)
        needed_until_s = asyncio.get_running_loop().time() + _ABORT_GRACE_S
        self._retired.append(_RetiredFiles(path=held.adapter.path, needed_until_s=needed_until_s))

    async def make_room(self) -> None:
        """Frees capacity for one more version, in memory and on disk.

        Raises:
            Busy: Every loaded version has requests in flight.
        """
        await self.retire_unused()
        if len(self._versions) >= self.max_loaded:
            raise Busy(f"all {len(self._versions)} loaded versions have requests in flight")
        await self.remove_retired_files()

    async def retire_unused(self) -> None:
        """Retires the oldest versions without requests until there is room for one more."""
        for held in list(self._versions.values()):
            if len(self._versions) < self.max_loaded:
                return
            if held.version != self._active and not self._num_leases(held):
                await self.retire(held.version)

    async def wait_for_aborts(self) -> None:
        """Waits until the engine computes nothing more for a version that is retired."""
        if self._retired:
            await _until(self._retired[-1].needed_until_s)

    async def remove_retired_files(self) -> None:
        """Removes the files of retired versions, each once the engine cannot need them.

        A completion that has ended at a stop string is still computed until the engine is told: it then loads
        the adapter once more from its files, and dies without them.
        """
        while self._retired:
            await _until(self._retired[0].needed_until_s)
            await asyncio.to_thread(remove_path, self._retired.popleft().path)

    def _find(self, version: int, field: str = _FIELD) -> _Version:
        held = self._versions.get(version)
        if held is None:
            raise NotFound(f"version {version} is not loaded", field)
        return held

    def _num_leases(self, held: _Version) -> int:
        # Only the engine knows the requests of the OpenAI routes. A group counts as one from its start,
        # before its requests reach the engine; there each of them counts.
        return max(held.num_groups, self._engine.num_requests(held.adapter))

    def _info(self, held: _Version) -> AdapterInfo:
        return AdapterInfo(
            version=held.version,
            name=held.adapter.name,
            sha256=held.identity.sha256,
            rank=held.identity.rank,
            size_bytes=held.size_bytes,
            active=held.version == self._active,
            num_leases=self._num_leases(held),
            created_at=held.created_at,
        )


async def _until(time_s: float) -> None:
    """Waits until the event loop's clock shows a time."""
    await asyncio.sleep(time_s - asyncio.get_running_loop().time())
