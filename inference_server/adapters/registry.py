"""Versions of the policy: immutable adapters, one of them active.

A version is loaded under its own name and path (``policy-000012``) and never changes; vLLM's prefix
cache is keyed by both, so a name that came back with other weights would be answered from the old
ones. ``policy`` is an alias that moves at once; whoever began on a version ends on it.
"""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from inference_server.adapters.storage import (
    AdapterDamaged,
    AdapterFolder,
    RegistryRecord,
    StagedAdapter,
)
from inference_server.adapters.validation import AdapterConfig, validate_adapter
from inference_server.engine import AdapterRejected, Engine, EngineAdapter, EngineDied
from inference_server.http.errors import ApiError, busy, conflict, invalid_adapter, not_found
from inference_server.http.uploads import Upload
from inference_server.wire.schemas import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    AdapterInfo,
    AdapterList,
    adapter_name,
)

POLICY_ALIAS = "policy"

# From the name that an OpenAI request says to its place in the engine, with a wide margin.
_LOOKED_UP_WITHIN_S = 0.2
# To unload holds the engine up: whoever has pushed a version gets its first tokens before.
_TIDY_AFTER_S = 0.2
TIDYING_TASK = "tidying of adapters"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Identity:
    """What makes two uploads of a version the same."""

    sha256: str
    config: AdapterConfig


@dataclass(kw_only=True, slots=True)
class _Version:
    """A version that the engine holds."""

    version: int
    adapter: EngineAdapter
    identity: _Identity
    size_bytes: int
    created_at: float
    num_groups: int = 0
    """Groups that hold it, whether or not their requests have reached the engine."""


class AdapterRegistry:
    """Uploads, activates, leases and retires adapter versions.

    Changes run one at a time; leases do not wait for them.

    Args:
        engine: Holds the adapters.
        folder: Holds their files.
        max_loaded_versions: Never more are held; soon after an upload there is place for the next.
    """

    def __init__(self, engine: Engine, folder: AdapterFolder, max_loaded_versions: int) -> None:
        self._engine = engine
        self._folder = folder
        # Over its own limit the engine drops the least recently used adapter, leased or not.
        self._max_loaded_versions = min(max_loaded_versions, engine.traits.max_loaded_adapters)
        # In order of upload. The alias moves by one assignment, between two awaits.
        self._versions: dict[int, _Version] = {}
        self._active: int | None = None
        # Outlives the versions: a retired one may come back, but only as it was. About 1 KB each.
        self._seen: dict[int, _Identity] = {}
        self._retired_paths: list[Path] = []
        self._lora_ids = itertools.count(1)
        self._next_version = 0
        self._changes = asyncio.Lock()
        self._tidying: asyncio.Task[None] | None = None

    @property
    def active_version(self) -> int | None:
        """The version that ``policy`` stands for; None is the base."""
        return self._active

    @property
    def next_version(self) -> int:
        """The lowest number above all that were ever used; 0 before the first upload."""
        return self._next_version

    @property
    def num_leases(self) -> int:
        """Requests in flight on any version."""
        return sum(self._num_leases(held) for held in self._versions.values())

    async def restore(self) -> None:
        """Loads the versions that an earlier start of the server has left in the folder.

        What cannot be served any more (damaged, or of another base model) is set aside with a warning.
        """
        record = await asyncio.to_thread(self._folder.read_record)
        stored = self._folder.stored_versions()
        self._next_version = max([record.next_version, *(version + 1 for version in stored)])
        # As many as stay after an upload: what was retired may still lie there.
        newest = stored[-(self._max_loaded_versions - 1) :]
        active = record.active_version
        if active is not None and active in stored and active not in newest:
            newest = [active, *newest[1:]]
        for version in stored:
            if version in newest:
                await self._restore(version)
            else:
                self._retired_paths.append(self._folder.path_of(version))
        await self._remove_retired_files()
        if active is not None and active in self._versions:
            self._activate(active)

    async def _restore(self, version: int) -> None:
        try:
            staged = await asyncio.to_thread(self._folder.open_stored, version)
            config = await asyncio.to_thread(validate_adapter, staged, self._engine.traits)
            await self._load(version, staged, _Identity(sha256=staged.sha256, config=config))
        except (AdapterDamaged, AdapterRejected, ApiError) as error:
            aside = self._folder.set_aside(version)
            _log.warning("adapter_set_aside", version=version, reason=str(error), path=str(aside))

    def list(self) -> AdapterList:
        """Every version that is loaded, in order of upload."""
        return AdapterList(
            active_version=self._active,
            adapters=[self._info(held) for held in self._versions.values()],
        )

    def get(self, version: int) -> AdapterInfo:
        """One version.

        Raises:
            ApiError: 404.
        """
        return self._info(self._find(version))

    async def put(
        self, version: int, upload: Upload, *, activate: bool
    ) -> tuple[AdapterInfo, bool]:
        """Makes a version of an upload, or finds that it is one already.

        Args:
            version: Its number.
            upload: What the client sent; open until this returns.
            activate: Whether ``policy`` moves to it.

        Returns:
            The version, and whether it was loaded just now.

        Raises:
            ApiError: 400 for an adapter that cannot be served, 409 where the version is or was another
                adapter, 413 where it is too large, 429 where every loaded version is in use. Nothing
                changed then.
        """
        # In one thread: to go to another takes as long as to check an adapter.
        staged, identity = await asyncio.to_thread(self._stage, upload)
        try:
            async with self._changes:
                self._refuse_another(version, identity)
                created = version not in self._versions
                if created:
                    await self._make_room()
                    await self._commit(version, staged, identity)
                    self._tidy_soon()
                if activate:
                    self._activate(version)
                self._write_record()
                return self._info(self._versions[version]), created
        finally:
            if staged.folder.exists():
                await asyncio.to_thread(self._folder.discard, staged.folder)

    def _stage(self, upload: Upload) -> tuple[StagedAdapter, _Identity]:
        """Writes an upload to the folder and checks it there, before the engine sees anything."""
        staged = self._folder.stage(upload.config_json, upload.weights)
        try:
            if staged.sha256 != upload.sha256:
                raise invalid_adapter(f"the weights file has digest {staged.sha256}", "sha256")
            config = validate_adapter(staged, self._engine.traits)
        except BaseException:
            self._folder.discard(staged.folder)
            raise
        return staged, _Identity(sha256=staged.sha256, config=config)

    async def activate(self, version: int) -> AdapterInfo:
        """Moves ``policy`` to a loaded version.

        Raises:
            ApiError: 404.
        """
        async with self._changes:
            self._find(version)
            self._activate(version)
            self._write_record()
            return self._info(self._versions[version])

    async def delete(self, version: int) -> None:
        """Unloads a version.

        Raises:
            ApiError: 404; 409 for the active version or one with requests in flight.
        """
        async with self._changes:
            held = self._find(version)
            if version == self._active:
                raise conflict(f"version {version} is active: activate another first", "version")
            if num_leases := self._num_leases(held):
                raise conflict(f"version {version} has {num_leases} requests in flight", "version")
            await self._remove_retired_files()
            await self._retire(held)

    def _tidy_soon(self) -> None:
        """Makes place for the next upload, so that it waits neither for unloading nor for the disk."""
        if self._tidying is None or self._tidying.done():
            self._tidying = asyncio.create_task(self._tidy(), name=TIDYING_TASK)

    async def _tidy(self) -> None:
        await asyncio.sleep(_TIDY_AFTER_S)
        # Of a dead engine the next request tells.
        with suppress(EngineDied):
            async with self._changes:
                await self._retire_unused()
        await asyncio.sleep(_LOOKED_UP_WITHIN_S)
        async with self._changes:
            await self._remove_retired_files()

    @contextmanager
    def lease(self, version: int | None) -> Iterator[EngineAdapter | None]:
        """Keeps a version loaded while a group is generated; None is the base.

        Raises:
            ApiError: 404.
        """
        if version is None:
            yield None
            return
        held = self._find(version)
        held.num_groups += 1
        try:
            yield held.adapter
        finally:
            held.num_groups -= 1

    def _find(self, version: int) -> _Version:
        held = self._versions.get(version)
        if held is None:
            raise not_found(f"version {version} is not loaded", "version")
        return held

    def _num_leases(self, held: _Version) -> int:
        # Requests of the OpenAI routes are known to the engine alone; a group counts before its
        # requests reach the engine, and is then itself several of them.
        return max(held.num_groups, self._engine.num_requests(held.adapter))

    def _info(self, held: _Version) -> AdapterInfo:
        return AdapterInfo(
            version=held.version,
            name=held.adapter.name,
            sha256=held.identity.sha256,
            rank=held.identity.config.r,
            size_bytes=held.size_bytes,
            active=held.version == self._active,
            num_leases=self._num_leases(held),
            created_at=held.created_at,
        )

    def _refuse_another(self, version: int, identity: _Identity) -> None:
        seen = self._seen.get(version)
        if seen is None or seen == identity:
            return
        state = "is" if version in self._versions else "was"
        if seen.sha256 == identity.sha256:
            raise conflict(
                f"version {version} {state} served with another {ADAPTER_CONFIG_FILE}",
                ADAPTER_CONFIG_FILE,
            )
        raise conflict(f"version {version} {state} served with digest {seen.sha256}", "sha256")

    async def _make_room(self) -> None:
        """Makes place for one more version, in memory and on disk."""
        await self._remove_retired_files()
        await self._retire_unused()
        if len(self._versions) >= self._max_loaded_versions:
            raise busy(f"all {len(self._versions)} loaded versions have requests in flight")
        if self._retired_paths:
            await asyncio.sleep(_LOOKED_UP_WITHIN_S)
            await self._remove_retired_files()

    async def _retire_unused(self) -> None:
        """Retires the oldest versions that nothing uses, until there is place for one more."""
        for held in list(self._versions.values()):
            if len(self._versions) < self._max_loaded_versions:
                return
            if held.version != self._active and not self._num_leases(held):
                await self._retire(held)

    async def _commit(self, version: int, staged: StagedAdapter, identity: _Identity) -> None:
        path = self._folder.commit(staged, version)
        try:
            await self._load(version, replace(staged, folder=path), identity)
        except BaseException as error:
            await asyncio.to_thread(self._folder.discard, path)
            if isinstance(error, AdapterRejected):
                raise invalid_adapter(
                    f"the engine refused it: {error}", ADAPTER_WEIGHTS_FILE
                ) from error
            raise

    async def _load(self, version: int, stored: StagedAdapter, identity: _Identity) -> None:
        adapter = EngineAdapter(
            lora_id=next(self._lora_ids), name=adapter_name(version), path=stored.folder
        )
        await self._engine.load(adapter)
        self._versions[version] = _Version(
            version=version,
            adapter=adapter,
            identity=identity,
            size_bytes=stored.size_bytes,
            created_at=(stored.folder / ADAPTER_WEIGHTS_FILE).stat().st_mtime,
        )
        self._seen[version] = identity
        self._next_version = max(self._next_version, version + 1)
        self._engine.publish(adapter.name, adapter)

    def _activate(self, version: int) -> None:
        self._active = version
        self._engine.publish(POLICY_ALIAS, self._versions[version].adapter)

    def _write_record(self) -> None:
        # Some bytes into the page cache: a thread would take longer than they do.
        self._folder.write_record(
            RegistryRecord(active_version=self._active, next_version=self._next_version)
        )

    async def _retire(self, held: _Version) -> None:
        del self._versions[held.version]
        self._engine.withdraw(held.adapter.name)
        await self._engine.unload(held.adapter)
        self._retired_paths.append(held.adapter.path)

    async def _remove_retired_files(self) -> None:
        """Removes the files of retired versions, some time after they were retired.

        An OpenAI request that had looked its name up just before the version was retired makes the
        engine load it once more, from its files; without them the engine dies.
        """
        paths, self._retired_paths = self._retired_paths, []
        for path in paths:
            await asyncio.to_thread(self._folder.discard, path)
