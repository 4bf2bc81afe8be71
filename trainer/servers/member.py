"""One server of a pool: whether it is asked, what it has been given, and how busy it is."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import ServerStatus
from trainer.client.protocol import InferenceServer
from trainer.errors import ServerRejectedError, ServerUnreachableError, SyncError

LOOKED_WITHIN_S = 30.0
"""How long a server may take to say what it is or holds; one that hangs would take ``server.request_timeout_s``."""
_KEPT = 0.97
"""Each new answer multiplies the weight of earlier ones by this, so that about the newest 30 decide how quick a server
is."""

_T = TypeVar("_T")


@dataclass(kw_only=True, eq=False)
class Member:
    """A server and what is known about it; used only on the thread of the requests."""

    name: str
    """Its URL."""
    client: InferenceServer
    is_up: bool = False
    """Whether it is asked: it answers, agrees with the others, and holds the versions in use."""
    found: ServerStatus | None = None
    """Its newest status."""
    boot_id: str = ""
    digests: dict[int, str] = field(default_factory=dict)
    """SHA-256 of each version that this boot of the server has acknowledged."""
    active: int | None = None
    num_groups: int = 0
    """Groups in flight that this process has sent."""
    num_others: int = 0
    """Other clients' groups in flight, according to its newest status."""
    busy_s: float = 0.0
    """Seconds with work, in which it answered `num_answered` groups; in both, newer answers weigh more."""
    num_answered: float = 0.0
    event_s: float = 0.0
    """When it last answered, or got work after it had none, on the monotonic clock."""
    why: str = "not asked yet"
    """Why it is not up."""
    since_s: float = 0.0
    """When it left, on the monotonic clock."""
    changes: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Allows one push or activation at a time."""

    def has_room(self, size: int) -> bool:
        """Whether ``size`` more of our groups stay within its limit; without groups of ours it always has room."""
        if self.found is None:
            return False
        most = self.found.limits.max_groups_in_flight
        return not self.num_groups or self.num_groups + size <= most

    @property
    def num_replicas(self) -> int:
        """How many copies of the model it runs."""
        return 1 if self.found is None else self.found.num_replicas

    def note_status(self, status: ServerStatus) -> None:
        """Keep a status; groups in flight that are not ours count as other clients'."""
        self.found = status
        self.num_others = max(0, status.groups_in_flight - self.num_groups)

    def note_boot(self, status: ServerStatus) -> None:
        """Keep a status; after a restart, forget what the earlier boot was given.

        Versions that the new boot lists are compared when they are given to it.
        """
        if status.boot_id != self.boot_id:
            self.boot_id, self.digests = status.boot_id, {}
            self.busy_s = self.num_answered = 0.0
        self.active = status.active_version
        self.note_status(status)

    def note_sent(self, size: int) -> None:
        """Count groups as in flight."""
        if not self.num_groups:
            self.event_s = time.monotonic()
        self.num_groups += size

    def note_answer(self, size: int) -> None:
        """Learn from an answer how quick the server is; called while its groups still count as in flight."""
        now_s = time.monotonic()
        self.busy_s = _KEPT * self.busy_s + now_s - self.event_s
        self.num_answered = _KEPT * self.num_answered + size
        self.event_s = now_s

    def note_ended(self, size: int) -> None:
        """Count groups as no longer in flight; time spent on groups that another server answered counts, too."""
        now_s = time.monotonic()
        self.busy_s += now_s - self.event_s
        self.event_s = now_s
        self.num_groups -= size

    def seconds_a_group(self, now_s: float) -> float | None:
        """Seconds between answered groups while it has work; None before its first answer.

        It is at least what it would be if all groups in flight were answered now, so that a hanging server counts as
        slow.
        """
        silent = (now_s - self.event_s) / self.num_groups if self.num_groups else 0.0
        known = self.busy_s / self.num_answered if self.num_answered else None
        return known if known is None or known > silent else silent


class GivenVersions:
    """The versions that a pool was given, and gives to its members."""

    def __init__(self) -> None:
        """Nothing was given yet."""
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
            return await looked_up(partial(member.client.adapter, version))
        except ServerRejectedError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
        member.digests.pop(version, None)
        await self.give(member, version)
        return await looked_up(partial(member.client.adapter, version))


async def looked_up(call: Callable[[], Awaitable[_T]]) -> _T:
    """The result of a call that only looks something up, for which a server has `LOOKED_WITHIN_S`.

    Raises:
        ServerUnreachableError: No answer came in that time.
    """
    try:
        async with asyncio.timeout(LOOKED_WITHIN_S):
            return await call()
    except TimeoutError:
        raise ServerUnreachableError(f"no answer within {LOOKED_WITHIN_S:g} s") from None
