"""Decides which servers of a pool are asked: when a server leaves, and when it comes back.

A server joins, or comes back, once it answers, serves the same as the others, and has acknowledged the versions in
use. Its own rollouts then prove the versions before any of them trains (`trainer.online.weight_sync.proofs`).
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from inference_server.wire.schemas import ServerStatus
from trainer.errors import ServerError, ServerUnreachableError, TrainerError
from trainer.servers.agreement import require_agreement
from trainer.servers.dispatch import Dispatcher
from trainer.servers.given_versions import GivenVersions
from trainer.servers.member import Member
from trainer.servers.time_limit import result_in_time

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""The first and the longest wait before a server that is away is tried again; each wait is twice the one before."""
TICK_S = 0.25
"""How often late requests are looked for."""
_TICKS_A_STATUS = 20

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class Membership:
    """Decides which members are up; everything runs on the event loop of the requests."""

    def __init__(
        self,
        members: Sequence[Member],
        versions: GivenVersions,
        dispatcher: Dispatcher,
        *,
        give_up_after_s: float,
    ):
        """No member is up before `start`."""
        self.num_left = 0
        self._members = members
        self._versions = versions
        self._dispatcher = dispatcher
        self._give_up_after_s = give_up_after_s
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asking: set[Member] = set()
        self._untried = len(members)
        self._unfit: TrainerError | None = None
        self._settled = asyncio.Event()
        self._none_since_s = 0.0

    @property
    def up(self) -> list[Member]:
        """The servers that are asked."""
        return [member for member in self._members if member.is_up]

    def start(self) -> None:
        """Begin to ask all servers for their status."""
        self._none_since_s = time.monotonic()
        for member in self._members:
            member.since_s = self._none_since_s
            self.keep(asyncio.create_task(self._connect(member)))
        self.keep(asyncio.create_task(self._watch()))

    async def stop(self) -> None:
        """End the tasks that run beside the requests."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Let a task run beside the requests, until it ends or the pool does."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def started(self, work: Iterable[Coroutine[Any, Any, _T]]) -> "list[asyncio.Task[_T]]":
        """Start tasks that run as with `keep`."""
        tasks = [asyncio.create_task(each) for each in work]
        for task in tasks:
            self.keep(task)
        return tasks

    async def refresh(self, member: Member) -> ServerStatus | None:
        """The current status of a server that is up; None if it has left."""
        since_s = member.since_s
        try:
            status = await result_in_time(member.client.status)
        except ServerError as error:
            why = str(error)
        else:
            if status.boot_id == member.boot_id:
                member.note_status(status)
                return status
            why = f"it was restarted: boot id {status.boot_id}"
        # It may have left and be back by now.
        if member.since_s == since_s:
            self.leave(member, why)
        return None

    async def wait(self) -> list[Member]:
        """The servers that are up, once every server was tried and at least one is up.

        Raises:
            TrainerError: At the start, a server does not fit.
            ServerUnreachableError: There has been no server for too long.
        """
        await self._settled.wait()
        if self._unfit is not None:
            raise self._unfit
        if up := self.up:
            return up
        raise self._given_up()

    def leave(self, member: Member, why: str) -> None:
        """Stop asking a server that gave no good answer, until it is back; others do its work."""
        if not member.is_up:
            return
        member.is_up, member.why, member.since_s = False, why, time.monotonic()
        self.num_left += 1
        num_requests = self._dispatcher.requeue(member)
        left = len(self.up)
        _log.warning(
            'event=server_left server=%s reason="%s" asked_elsewhere=%d servers_left=%d',
            member.name,
            why,
            num_requests,
            left,
        )
        if not left:
            self._none_since_s = member.since_s
        self._update_settled()
        self.keep(asyncio.create_task(self._connect(member)))

    async def _connect(self, member: Member) -> None:
        """Try a server until it is up, at growing intervals."""
        wait_s, is_first = FIRST_WAIT_S, not member.boot_id
        while not member.is_up:
            if not is_first:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            try:
                await self._join(member)
            except (TrainerError, OSError) as error:
                self._note_why(member, error, is_first=is_first)
            if is_first:
                is_first = False
                self._untried -= 1
                self._update_settled()

    def _note_why(self, member: Member, error: Exception, *, is_first: bool) -> None:
        why = str(error)
        away = isinstance(error, ServerUnreachableError)
        if is_first and not away and isinstance(error, TrainerError):
            # Before anything is trained, a server that does not fit is an error that the user has to fix.
            self._unfit = self._unfit or error
        elif is_first or not (away or why == member.why):
            # Logged once for each reason, not for each try, and not for a server that is merely still away.
            _log.warning('event=server_not_asked server=%s reason="%s"', member.name, why)
        member.why = why

    async def _join(self, member: Member) -> None:
        status = await result_in_time(member.client.status)
        for other in self._members:
            if other is not member and other.boot_id and other.found is not None:
                require_agreement(member.name, status, other.name, other.found)
                break
        was, away_s = member.boot_id, time.monotonic() - member.since_s
        member.note_boot(status)
        given: list[int] = []
        # More versions may come into use while these are given.
        while missing := sorted(self.in_use() - member.digests.keys()):
            for version in missing:
                await self._versions.give(member, version)
                given.append(version)
        if (active := self._versions.active) is not None and member.active != active:
            await self._versions.give(member, active)
        member.is_up = True
        if was:
            _log.warning(
                "event=server_back server=%s after_s=%.1f boot_id=%s was=%s given=%s",
                member.name,
                away_s,
                member.boot_id,
                was,
                ",".join(map(str, given)) or "none",
            )
        elif not self._untried:
            _log.warning("event=server_joined server=%s after_s=%.1f", member.name, away_s)
        self._update_settled()
        self._dispatcher.schedule()

    def in_use(self) -> set[int]:
        """The versions that every server needs: the active one, and those that requests ask for."""
        active = self._versions.active
        needed = self._dispatcher.versions_asked | (set() if active is None else {active})
        return needed & self._versions.folders.keys()

    def _update_settled(self) -> None:
        """Let callers of `wait` go on once a server is up or none can be expected any more; else let them wait."""
        if not self._untried and (self.up or self._unfit is not None or self._is_over()):
            self._settled.set()
        else:
            self._settled.clear()

    def _is_over(self) -> bool:
        return not self.up and time.monotonic() - self._none_since_s >= self._give_up_after_s

    def _given_up(self) -> ServerUnreachableError:
        why = "; ".join(f"{member.name}: {member.why}" for member in self._members)
        return ServerUnreachableError(
            f"none of the {len(self._members)} servers of server.urls can be asked for "
            f"{self._give_up_after_s:g} s: {why}"
        )

    async def _watch(self) -> None:
        """Look for late requests and newer statuses, and give up when there has been no server for too long."""
        tick = 0
        while True:
            await asyncio.sleep(TICK_S)
            tick += 1
            self._dispatcher.ask_late_again()
            if self._is_over():
                self._dispatcher.fail_all(self._given_up())
            self._update_settled()
            if tick % _TICKS_A_STATUS == 0:
                for member in self.up:
                    if member not in self._asking:
                        self.keep(asyncio.create_task(self._refresh_once(member)))

    async def _refresh_once(self, member: Member) -> None:
        self._asking.add(member)
        try:
            await self.refresh(member)
        finally:
            self._asking.discard(member)
