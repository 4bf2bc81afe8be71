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
from trainer.servers.pending_request import PendingRequest

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
        self._waiting: deque[PendingRequest] = deque()
        self._in_flight: dict[PendingRequest, None] = {}
        self._took_s: deque[float] = deque(maxlen=_NUM_USUAL)

    @property
    def versions_asked(self) -> set[int]:
        """The versions of all requests that are not answered yet."""
        requests = (*self._waiting, *self._in_flight)
        return {request.version for request in requests if request.version is not None}

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
        request = PendingRequest(version=version, size=size, send=send, only=only, result=result)
        self._wait(request, is_first=is_first)
        self.schedule()
        try:
            return await result
        finally:
            self._end(request)
            self.schedule()

    def schedule(self) -> None:
        """Start the requests that wait, as far as servers have room."""
        held_up: list[PendingRequest] = []
        while self._waiting:
            request = self._waiting.popleft()
            if request.only is not None and not request.only.is_up:
                request.fail(
                    ServerUnreachableError(f"{request.only.name} has left: {request.only.why}")
                )
                continue
            if member := self._quickest(request):
                self._start(request, member)
                continue
            held_up.append(request)
            if request.only is None:
                break
        self._waiting.extendleft(reversed(held_up))

    def requeue(self, member: Member) -> int:
        """Let other members take over the requests in flight on a member that left; returns how many there are."""
        requests = [request for request in self._in_flight if member in request.tasks]
        for request in requests:
            self._drop(request, member)
            self._wait_again(request)
        asyncio.get_running_loop().call_soon(self.schedule)
        return len(requests)

    def ask_late_again(self) -> None:
        """Send late requests to a second server, unless some requests still wait for a first one."""
        if self._waiting or not self._took_s:
            return
        late_s = max(_LEAST_LATE_S, _TIMES_LATE * statistics.median(self._took_s))
        before_s = time.monotonic() - late_s
        num_again = sum(len(request.tasks) > 1 for request in self._in_flight)
        most = _LEAST_AGAIN + int(_SHARE_AGAIN * len(self._in_flight))
        least = min((member.num_groups for member in self._members if member.is_up), default=0)
        # The oldest come first.
        for request in list(self._in_flight):
            if request.since_s > before_s or len(request.tasks) > 1 or request.only is not None:
                continue
            (first,) = request.tasks
            # Beyond a few requests, the double work is worthwhile only on a server that has much less to do.
            if num_again >= most and least > first.num_groups // 2:
                return
            if second := self._quickest(request):
                self._start(request, second)
                least = min(member.num_groups for member in self._members if member.is_up)
                self.num_asked_again += 1
                num_again += 1

    def fail_all(self, error: ServerError) -> None:
        """Let all waiting requests fail with an error."""
        while self._waiting:
            self._waiting.popleft().fail(error)

    def _quickest(self, request: PendingRequest) -> Member | None:
        """Of the members that may be asked, the one that is expected to answer first; None if there is none."""
        able: Iterable[Member] = self._members if request.only is None else [request.only]
        free = [m for m in able if m.is_up and m.has_room(request.size) and m not in request.tasks]
        if len(free) > 1 and request.version is not None:
            # If possible, do not wait for a server that is still being given the version.
            free = [m for m in free if request.version in m.digests] or free
        if not free:
            return None
        now_s = time.monotonic()
        rates = [(member, member.seconds_a_group(now_s)) for member in free]
        known = [seconds for _, seconds in rates if seconds is not None]
        usual_s = statistics.fmean(known) if known else 1.0
        quickest, least_s = free[0], math.inf
        for member, seconds in rates:
            num_groups = member.num_groups + member.num_others + request.size
            expected_s = num_groups * (usual_s if seconds is None else seconds)
            if expected_s < least_s:
                quickest, least_s = member, expected_s
        return quickest

    def _start(self, request: PendingRequest, member: Member) -> None:
        if not request.tasks:
            request.since_s = time.monotonic()
        self._in_flight[request] = None
        member.note_sent(request.size)
        request.tasks[member] = asyncio.create_task(self._send(request, member))

    async def _send(self, request: PendingRequest, member: Member) -> None:
        started_s = time.monotonic()
        try:
            if request.version is not None and request.version not in member.digests:
                await self._versions.give(member, request.version)
            answer, boot_id = await request.send(member.client)
        except NotFoundError as error:
            if not self._is_given_again(request, member):
                request.fail(error)
        except ServerRejectedError as error:
            request.fail(error)
        except ServerError as error:
            self._left(member, str(error))
        except Exception as error:
            request.fail(error)
        else:
            if boot_id is not None and boot_id != member.boot_id:
                # Only when it has been given the versions again is it known what it serves.
                self._left(member, f"it was restarted: boot id {boot_id}, before {member.boot_id}")
            elif not request.result.done():
                member.note_answer(request.size)
                self._took_s.append(time.monotonic() - started_s)
                request.result.set_result((answer, member))

    def _is_given_again(self, request: PendingRequest, member: Member) -> bool:
        """Queue a request again because the member lost its version; False if the pool cannot give it again."""
        if request.version not in self._versions.folders or request.num_lost >= _TIMES_LOST:
            return False
        member.digests.pop(request.version, None)
        request.num_lost += 1
        self._drop(request, member, cancel=False)
        self._wait_again(request)
        self.schedule()
        return True

    def _wait(self, request: PendingRequest, *, is_first: bool) -> None:
        if is_first:
            self._waiting.appendleft(request)
        else:
            self._waiting.append(request)

    def _wait_again(self, request: PendingRequest) -> None:
        """Let a request wait for its first server again, unless a second one still has it."""
        if not request.tasks:
            self._in_flight.pop(request, None)
            self._wait(request, is_first=True)

    def _drop(self, request: PendingRequest, member: Member, *, cancel: bool = True) -> None:
        task = request.tasks.pop(member)
        member.note_ended(request.size)
        if cancel and task is not asyncio.current_task():
            task.cancel()

    def _end(self, request: PendingRequest) -> None:
        """Clean up after a request that was answered, has failed, or that nobody waits for."""
        for member in list(request.tasks):
            self._drop(request, member)
        if request in self._in_flight:
            del self._in_flight[request]
        elif request in self._waiting:
            self._waiting.remove(request)
