"""Upload, activation and removal of policy versions: immutable adapters, one of them active.

``policy`` is an alias that moves atomically; a request finishes on the version on which it began.
"""

import asyncio
from dataclasses import replace

import structlog

from inference_server.adapters.full_disk import full_disk_named
from inference_server.adapters.identity import AdapterIdentity
from inference_server.adapters.record import RegistryRecord, read_record, write_record
from inference_server.adapters.storage import (
    AdapterDamaged,
    AdapterFolder,
    AdapterUnreadable,
    StagedAdapter,
    Upload,
    remove_path,
)
from inference_server.adapters.tidying import Tidying
from inference_server.adapters.validation import validate_adapter
from inference_server.adapters.versions import LoadedVersions
from inference_server.engine import AdapterRejected, EngineTraits
from inference_server.errors import Conflict, InvalidAdapter
from inference_server.wire.adapters.infos import AdapterInfo, AdapterList
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE

_log = structlog.get_logger()


class AdapterRegistry:
    """Uploads, activates and removes adapter versions, one change at a time.

    Args:
        loaded: The versions that the engine holds; empty until `restore`.
        folder: Holds the adapters' files.
        traits: The engine's, which an adapter must fit.
    """

    def __init__(self, loaded: LoadedVersions, folder: AdapterFolder, traits: EngineTraits) -> None:
        """See the class."""
        self._loaded = loaded
        self._folder = folder
        self._traits = traits
        # Kept after a version is retired: it may be uploaded again, but only unchanged. About 0.4 KB each.
        self._seen: dict[int, AdapterIdentity] = {}
        self._next_version = 0
        self._base_fingerprint = traits.base_fingerprint
        self._changes = asyncio.Lock()
        self._tidying = Tidying(loaded, self._changes)

    @property
    def next_version(self) -> int:
        """The lowest number above all that were ever used; 0 before the first upload."""
        return self._next_version

    def list(self) -> AdapterList:
        """Every loaded version, in order of upload."""
        return AdapterList(active_version=self._loaded.active, adapters=self._loaded.infos())

    def get(self, version: int) -> AdapterInfo:
        """One version.

        Raises:
            NotFound: It is not loaded.
        """
        return self._loaded.info(version)

    async def restore(self) -> None:
        """Loads the versions that an earlier server left in the folder.

        A version that cannot be served (damaged, of another base model) is set aside with a warning; one that cannot be
        read (permissions, a disk's error) stays where it is, with a warning too.
        """
        record = await asyncio.to_thread(read_record, self._folder.root)
        stored = self._folder.stored_versions()
        self._next_version = max([record.next_version, *(version + 1 for version in stored)])
        kept = [version for version in stored if not self._folder.is_retired(version)]
        # The newest ones: as many as stay loaded after an upload.
        newest = kept[-(self._loaded.max_loaded - 1) :]
        active = record.active_version
        if active is not None and active in kept and active not in newest:
            newest = [active, *newest[1:]]
        other_base = _other_base(record.base_fingerprint, self._traits)
        if self._base_fingerprint is None:
            self._base_fingerprint = record.base_fingerprint
        for version in stored:
            if version in newest:
                await self._restore(version, other_base)
            else:
                await asyncio.to_thread(remove_path, self._folder.path_of(version))
        if active is not None and active in self._loaded:
            self._loaded.activate(active)
        is_used = stored or record != RegistryRecord()
        if is_used and self._base_fingerprint != record.base_fingerprint:
            # Only now: if the server is killed before, the next one still knows whose the versions that are left are.
            self._write_record(self._loaded.active)

    async def _restore(self, version: int, other_base: str | None) -> None:
        try:
            if other_base is not None:
                raise AdapterRejected(other_base)
            staged = await asyncio.to_thread(self._folder.open_stored, version)
            config = await asyncio.to_thread(validate_adapter, staged, self._traits)
            await self._load(version, staged, AdapterIdentity.of(staged.sha256, config))
        except AdapterUnreadable as error:
            _log.warning("adapter_unreadable", version=version, reason=str(error))
        except (AdapterDamaged, AdapterRejected, InvalidAdapter) as error:
            self._folder.set_aside(version, str(error))

    async def put(
        self, version: int, upload: Upload, *, activate: bool
    ) -> tuple[AdapterInfo, bool]:
        """Adds a version, or confirms that it already exists with the same content.

        Args:
            version: The version's number.
            upload: What the client sent; must stay open until this returns.
            activate: Whether ``policy`` moves to the version.

        Returns:
            The version, and whether it is new.

        Raises:
            InvalidAdapter: The adapter cannot be served.
            Conflict: The version is or was another adapter.
            TooLarge: The weights exceed the server's limit.
            Busy: Every loaded version has requests in flight.
            StorageFull: The folder's disk is full.
        """
        # In one thread: switching threads takes as long as checking an adapter.
        staged, identity = await asyncio.to_thread(self._stage, upload)
        try:
            async with self._changes:
                self._check_unchanged(version, identity)
                created = version not in self._loaded
                if created:
                    await self._loaded.make_room()
                    await self._commit(version, staged, identity)
                    self._tidying.soon()
                self._write_record(version if activate else self._loaded.active)
                if activate:
                    self._loaded.activate(version)
                return self._loaded.info(version), created
        finally:
            if staged.folder.exists():
                await asyncio.to_thread(remove_path, staged.folder)

    def _stage(self, upload: Upload) -> tuple[StagedAdapter, AdapterIdentity]:
        """Writes an upload to the folder and checks it there, before the engine loads it."""
        with full_disk_named("--state-dir", self._folder.root):
            staged = self._folder.stage(upload)
        try:
            if staged.sha256 != upload.sha256:
                raise InvalidAdapter(f"the weights file has digest {staged.sha256}", "sha256")
            config = validate_adapter(staged, self._traits)
        except BaseException:
            remove_path(staged.folder)
            raise
        return staged, AdapterIdentity.of(staged.sha256, config)

    def _check_unchanged(self, version: int, identity: AdapterIdentity) -> None:
        seen = self._seen.get(version)
        if seen is None or seen == identity:
            return
        state = "is" if version in self._loaded else "was"
        if seen.sha256 == identity.sha256:
            raise Conflict(
                f"version {version} {state} served with another {ADAPTER_CONFIG_FILE}",
                ADAPTER_CONFIG_FILE,
            )
        raise Conflict(f"version {version} {state} served with digest {seen.sha256}", "sha256")

    async def _commit(self, version: int, staged: StagedAdapter, identity: AdapterIdentity) -> None:
        path = self._folder.commit(staged, version)
        try:
            await self._load(version, replace(staged, folder=path), identity)
        except BaseException as error:
            await asyncio.to_thread(remove_path, path)
            if isinstance(error, AdapterRejected):
                raise InvalidAdapter(
                    f"the engine rejected it: {error}", ADAPTER_WEIGHTS_FILE
                ) from error
            raise

    async def _load(self, version: int, stored: StagedAdapter, identity: AdapterIdentity) -> None:
        await self._loaded.load(version, stored, identity)
        self._seen[version] = identity
        self._next_version = max(self._next_version, version + 1)

    async def activate(self, version: int) -> AdapterInfo:
        """Moves ``policy`` to a loaded version.

        Raises:
            NotFound: It is not loaded.
        """
        async with self._changes:
            self._loaded.info(version)
            self._write_record(version)
            self._loaded.activate(version)
            return self._loaded.info(version)

    async def delete(self, version: int) -> None:
        """Unloads a version.

        Raises:
            NotFound: It is not loaded.
            Conflict: It is active or has requests in flight.
        """
        async with self._changes:
            num_leases = self._loaded.num_leases_of(version)
            if version == self._loaded.active:
                raise Conflict(f"version {version} is active: activate another first", "version")
            if num_leases:
                raise Conflict(f"version {version} has {num_leases} requests in flight", "version")
            await self._loaded.retire(version)
            self._tidying.soon()

    def _write_record(self, active: int | None) -> None:
        record = RegistryRecord(
            active_version=active,
            next_version=self._next_version,
            base_fingerprint=self._base_fingerprint,
        )
        # A few bytes into the page cache: starting a thread would take longer.
        with full_disk_named("--state-dir", self._folder.root):
            write_record(self._folder.root, record)


def _other_base(recorded: str | None, traits: EngineTraits) -> str | None:
    """Why stored versions are of another base model than the engine's; None unless that is known."""
    served = traits.base_fingerprint
    if recorded is None or served is None or recorded == served:
        return None
    return (
        f"it is of a base model with fingerprint {recorded}, and {traits.base_model} has {served}"
    )
