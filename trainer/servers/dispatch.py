"""Decides which server of a pool gets which request, and which requests also go to a second server.

Each request goes to the server that is expected to finish it first. If a server leaves, its requests in flight go to
the others. A request that takes much longer than requests usually do is also sent to a second server: the first
answer counts and the other request is cancelled, so that each request is answered once.
"""

import asyncio
import math
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trainer.client.protocol import InferenceServer
from trainer.errors import (
    NotFoundError,
    ServerError,
    ServerRejectedError,
    ServerUnreachableError,
)
from trainer.servers.given_versions import GivenVersions
from trainer.servers.member import Member

_TIMES_LATE = 2.0
"""A request is late after this many times the usual time."""
_LEAST_LATE_S = 1.0
_NUM_USUAL = 128
"""The usual time is the median over this many of the newest answers."""
_SHARE_AGAIN = 0.1
"""Share of the requests in flight that may go to a second server, besides `_LEAST_AGAIN`; more may go to a server that
has far less to do."""
_LEAST_AGAIN = 2
_TIMES_LOST = 3
"""How often, for one request, a version is given again that servers have lost."""

_T = TypeVar("_T")


@dataclass(kw_only=True, eq=False)
class _Job:
    version: int | None
    size: int
    """Number of groups."""
    send: Callable[[InferenceServer], Awaitable[tuple[Any, str | None]]]
    """Returns the answer, and the server's boot id if the answer names it."""
    only: Member | None
    result: asyncio.Future[tuple[Any, Member]]
    tasks: dict[Member, asyncio.Task[None]] = field(default_factory=dict)
    since_s: float = 0.0
    num_lost: int = 0


class Dispatcher:
    """Hands requests to members; everything runs on the event loop of the requests."""

    def __init__(
        self,
        members: Sequence[Member],
        versions: GivenVersions,
        left: Callable[[Member, str], None],
    ):
        """Nothing is sent before the first `ask`; ``left`` gets each member that gave no good answer, and why."""
        self.num_asked_again = 0
        """How many late requests were also sent to a second server."""
        self._members = members
        self._versions = versions
        self._left = left
        self._waiting: deque[_Job] = deque()
        self._in_flight: dict[_Job, None] = {}
        self._took_s: deque[float] = deque(maxlen=_NUM_USUAL)

    @property
    def versions_asked(self) -> set[int]:
        """The versions of all requests that are not answered yet."""
        jobs = (*self._waiting, *self._in_flight)
        return {job.version for job in jobs if job.version is not None}

    async def ask(
        self,
        version: int | None,
        size: int,
        send: Callable[[InferenceServer], Awaitable[tuple[_T, str | None]]],
        *,
        is_first: bool = False,
        only: Member | None = None,
    ) -> tuple[_T, Member]:
        """Send a request; returns the first good answer, and the member that gave it.

        Args:
            version: The version that it needs; a member that does not hold it is given it first.
            size: Number of groups in the request.
            send: Sends the request; returns the answer, and the server's boot id if the answer has one.
            is_first: Whether it goes ahead of all waiting requests.
            only: The one member that may answer.

        Raises:
            ServerRejectedError: The request is at fault.
            ServerUnreachableError: There was no server for too long, or ``only`` is not up.
        """
        result: asyncio.Future[tuple[Any, Member]] = asyncio.get_running_loop().create_future()
        job = _Job(version=version, size=size, send=send, only=only, result=result)
        self._wait(job, is_first=is_first)
        self.schedule()
        try:
            return await result
        finally:
            self._end(job)
            self.schedule()

    def schedule(self) -> None:
        """Start the requests that wait, as far as servers have room."""
        held_up: list[_Job] = []
        while self._waiting:
            job = self._waiting.popleft()
            if job.only is not None and not job.only.is_up:
                _fail(job, ServerUnreachableError(f"{job.only.name} has left: {job.only.why}"))
                continue
            if member := self._quickest(job):
                self._start(job, member)
                continue
            held_up.append(job)
            if job.only is None:
                break
        self._waiting.extendleft(reversed(held_up))

    def requeue(self, member: Member) -> int:
        """Let other members take over the requests in flight on a member that left; returns how many there are."""
        jobs = [job for job in self._in_flight if member in job.tasks]
        for job in jobs:
            self._drop(job, member)
            if not job.tasks:
                self._in_flight.pop(job, None)
                self._wait(job, is_first=True)
        asyncio.get_running_loop().call_soon(self.schedule)
        return len(jobs)

    def ask_late_again(self) -> None:
        """Send late requests to a second server, unless some requests still wait for a first one."""
        if self._waiting or not self._took_s:
            return
        late_s = max(_LEAST_LATE_S, _TIMES_LATE * statistics.median(self._took_s))
        before_s = time.monotonic() - late_s
        num_again = sum(len(job.tasks) > 1 for job in self._in_flight)
        most = _LEAST_AGAIN + int(_SHARE_AGAIN * len(self._in_flight))
        least = min((member.num_groups for member in self._members if member.is_up), default=0)
        # The oldest come first.
        for job in list(self._in_flight):
            if job.since_s > before_s or len(job.tasks) > 1 or job.only is not None:
                continue
            (first,) = job.tasks
            # Beyond a few requests, the double work is worthwhile only on a server that has much less to do.
            if num_again >= most and least > first.num_groups // 2:
                return
            if second := self._quickest(job):
                self._start(job, second)
                least = min(member.num_groups for member in self._members if member.is_up)
                self.num_asked_again += 1
                num_again += 1

    def fail_all(self, error: ServerError) -> None:
        """Let all waiting requests fail with an error."""
        while self._waiting:
            _fail(self._waiting.popleft(), error)

    def _quickest(self, job: _Job) -> Member | None:
        """Of the members that may be asked, the one that is expected to answer first; None if there is none."""
        able: Iterable[Member] = self._members if job.only is None else [job.only]
        free = [m for m in able if m.is_up and m.has_room(job.size) and m not in job.tasks]
        if len(free) > 1 and job.version is not None:
            # If possible, do not wait for a server that is still being given the version.
            free = [m for m in free if job.version in m.digests] or free
        if not free:
            return None
        now_s = time.monotonic()
        rates = [(member, member.seconds_a_group(now_s)) for member in free]
        known = [seconds for _, seconds in rates if seconds is not None]
        usual_s = statistics.fmean(known) if known else 1.0
        quickest, least_s = free[0], math.inf
        for member, seconds in rates:
            num_groups = member.num_groups + member.num_others + job.size
            expected_s = num_groups * (usual_s if seconds is None else seconds)
            if expected_s < least_s:
                quickest, least_s = member, expected_s
        return quickest

    def _start(self, job: _Job, member: Member) -> None:
        if not job.tasks:
            job.since_s = time.monotonic()
        self._in_flight[job] = None
        member.note_sent(job.size)
        job.tasks[member] = asyncio.create_task(self._send(job, member))

    async def _send(self, job: _Job, member: Member) -> None:
        started_s = time.monotonic()
        try:
            if job.version is not None and job.version not in member.digests:
                await self._versions.give(member, job.version)
            answer, boot_id = await job.send(member.client)
        except NotFoundError as error:
            if not self._is_given_again(job, member):
                _fail(job, error)
        except ServerRejectedError as error:
            _fail(job, error)
        except ServerError as error:
            self._left(member, str(error))
        except Exception as error:
            _fail(job, error)
        else:
            if boot_id is not None and boot_id != member.boot_id:
                # Only when it has been given the versions again is it known what it serves.
                self._left(member, f"it was restarted: boot id {boot_id}, before {member.boot_id}")
            elif not job.result.done():
                member.note_answer(job.size)
                self._took_s.append(time.monotonic() - started_s)
                job.result.set_result((answer, member))

    def _is_given_again(self, job: _Job, member: Member) -> bool:
        """Queue a request again because the member lost its version; False if the pool cannot give it again."""
        if job.version not in self._versions.folders or job.num_lost >= _TIMES_LOST:
            return False
        member.digests.pop(job.version, None)
        job.num_lost += 1
        self._drop(job, member, cancel=False)
        if not job.tasks:
            self._in_flight.pop(job, None)
            self._wait(job, is_first=True)
        self.schedule()
        return True

    def _wait(self, job: _Job, *, is_first: bool) -> None:
        if is_first:
            self._waiting.appendleft(job)
        else:
            self._waiting.append(job)

    def _drop(self, job: _Job, member: Member, *, cancel: bool = True) -> None:
        task = job.tasks.pop(member)
        member.note_ended(job.size)
        if cancel and task is not asyncio.current_task():
            task.cancel()

    def _end(self, job: _Job) -> None:
        """Clean up after a request that was answered, has failed, or that nobody waits for."""
        for member in list(job.tasks):
            self._drop(job, member)
        if job in self._in_flight:
            del self._in_flight[job]
        elif job in self._waiting:
            self._waiting.remove(job)


def _fail(job: _Job, error: Exception) -> None:
    if not job.result.done():
        job.result.set_exception(error)
