"""The versions that every server of a pool is to hold, and how each is given them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from inference_server.wire.adapters.infos import AdapterInfo
from trainer.errors import NotFoundError, SyncError
from trainer.servers.member import Member
from trainer.servers.time_limit import result_in_time


class GivenVersions:
    """The versions that a pool was given, and gives to its members."""

    def __init__(self) -> None:
        self.active: int | None = None
        self.folders: dict[int, Path] = {}
        self._digests: dict[int, str] = {}

    def note(self, version: int, folder: Path, *, activate: bool) -> None:
        """Note a version that is to be given to every member."""
        self.folders[version] = folder
        if activate:
            self.active = version

    def forget(self, version: int, *, active: int | None) -> None:
        """Forget a version whose number another run has taken; ``active`` is the version before it."""
        self.folders.pop(version, None)
        self._digests.pop(version, None)
        self.active = active

    async def give(
        self,
        member: Member,
        version: int,
        *,
        again: bool = False,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> AdapterInfo | None:
        """Make a member hold a version, and serve it as ``policy`` if it is the active one.

        Args:
            member: The server.
            version: The version; nothing is done for one that was not noted.
            again: Whether to push even a version that the member holds already, which changes nothing there.
            is_wanted: Asked once the pushes before this one are done: whether the version is still to be pushed.

        Returns:
            What the server acknowledged; None if nothing was pushed.

        Raises:
            SyncError: The member acknowledges other weights than another member did.
            ServerError: As in `InferenceServer.push_adapter`.
            OSError: The version's files are gone.
        """
        # For a version that the member holds, there is no need to wait for other pushes to it.
        if self._is_held(member, version) and not again:
            return None
        async with member.changes:
            folder, is_active = self.folders.get(version), version == self.active
            is_done = self._is_held(member, version) and not again
            if folder is None or is_done or not is_wanted():
                return None
            info = await member.client.push_adapter(version, folder, activate=is_active)
            ours = self._digests.setdefault(version, info.sha256)
            if (info.version, info.sha256) != (version, ours):
                raise SyncError(
                    f"{member.name} acknowledges version {info.version} with digest {info.sha256}; "
                    f"another server acknowledged version {version} with digest {ours}"
                )
            member.digests[version] = info.sha256
            if info.active:
                member.active = version
            return info

    def _is_held(self, member: Member, version: int) -> bool:
        """Whether the member has acknowledged the version, as ``policy`` if it is the active one."""
        is_named = version != self.active or member.active == version
        return version in member.digests and is_named

    async def listed(self, member: Member, version: int) -> AdapterInfo:
        """A version as a member holds it; the member is first given what it does not hold yet or has lost.

        Raises:
            SyncError: As in `give`.
            ServerError: As in `InferenceServer.adapter`.
        """
        await self.give(member, version)
        try:
            return await result_in_time(partial(member.client.adapter, version))
        except NotFoundError:
            member.digests.pop(version, None)
            await self.give(member, version)
        return await result_in_time(partial(member.client.adapter, version))
