"""Several inference servers in the place of one: `ServerPool` is an `InferenceServer`.

Every server is given every version, and one of them is asked for each group. The pool has one boot id of its own:
a server that restarts leaves, and comes back with the versions in use, without the caller noticing. A group says
which server made it (`ServedGroup`), so that each server's own rollouts prove what it serves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import ArmsRequest, ArmsResponse, ServerStatus
from trainer.client.protocol import GreedyPrompt, InferenceServer, TextCompletion
from trainer.errors import ServerError, ServerRejectedError, ServerUnreachableError, TrainerError
from trainer.rollouts.groups import ServedGroup
from trainer.servers.agreement import combined_status
from trainer.servers.dispatch import Dispatcher
from trainer.servers.first_results import first_results
from trainer.servers.given_versions import GivenVersions
from trainer.servers.member import Member
from trainer.servers.membership import Membership
from trainer.servers.origins import Origin, replicas_of
from trainer.servers.pinned_server import PinnedServer
from trainer.servers.time_limit import result_in_time

_BOOT_ID = "several"
_QUESTIONS_A_PIECE = 8
"""How many greedy answers are requested at once: few enough to spread the requests over the servers."""

_T = TypeVar("_T")


class ServerPool:
    """Servers that are asked together; see `trainer.client.protocol.InferenceServer`."""

    def __init__(self, clients: Mapping[str, InferenceServer], *, give_up_after_s: float):
        """Nothing is sent before the block is entered.

        Args:
            clients: The servers' clients, by URL; each gives up within about a second.
            give_up_after_s: How long to go on while no server is up.
        """
        self._members = [Member(name=name, client=client) for name, client in clients.items()]
        self._versions = GivenVersions()
        self._stack = AsyncExitStack()
        self._dispatcher = Dispatcher(
            self._members, self._versions, lambda member, why: self._membership.leave(member, why)
        )
        self._membership = Membership(
            self._members, self._versions, self._dispatcher, give_up_after_s=give_up_after_s
        )

    async def __aenter__(self) -> Self:
        """Open the connections and begin to ask the servers for their status."""
        for member in self._members:
            member.client = await self._stack.enter_async_context(member.client)
        self._membership.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connections; what is in flight is aborted."""
        await self._membership.stop()
        await self._stack.aclose()

    @property
    def metrics(self) -> dict[str, float]:
        """How many servers are asked, how often a server has left, and how many requests went to a second server."""
        return {
            "servers/up": len(self._membership.up),
            "servers/left": self._membership.num_left,
            "servers/asked_again": self._dispatcher.num_asked_again,
        }

    @property
    def origins(self) -> list[Origin]:
        """The servers that are asked, with each of their replicas."""
        return [
            origin
            for member in self._membership.up
            for origin in replicas_of(Origin(member.name, member.boot_id), member.num_replicas)
        ]

    def only(self, origin: Origin) -> PinnedServer:
        """One server of the pool, to prove what it serves.

        Raises:
            ServerUnreachableError: The server has left, or was restarted.
        """
        for member in self._membership.up:
            if (member.name, member.boot_id) == (origin.server, origin.boot_id):
                return PinnedServer(member, self._versions, partial(self.generate, only=member))
        raise ServerUnreachableError(
            f"{origin.server} has left before it has proven what it serves"
        )

    async def status(self) -> ServerStatus:
        """One status for all servers, with the versions that all of them hold.

        Raises:
            UsageError: At the start of a run, two of them differ.
        """
        while True:
            members = await self._membership.wait()
            await first_results(self._membership.started(map(self._membership.refresh, members)))
            # For a server that is late, its last status is used.
            if up := [m.found for m in members if m.is_up and m.found is not None]:
                found = [m.found for m in self._members if m.found is not None]
                return combined_status(up, _BOOT_ID, max(status.next_version for status in found))

    async def generate(self, request: ArmsRequest, *, only: Member | None = None) -> ArmsResponse:
        """A group of arms for each question of a request, all from one server."""

        async def send(client: InferenceServer) -> tuple[ArmsResponse, str]:
            response = await client.generate(request)
            return response, response.boot_id

        version = request.policy if isinstance(request.policy, int) else None
        await self._membership.wait()
        response, member = await self._dispatcher.ask(
            version, len(request.questions), send, is_first=only is not None, only=only
        )
        served = {"server": member.name, "server_boot_id": response.boot_id}
        groups = [
            ServedGroup.model_construct(
                _fields_set=group.model_fields_set | served.keys(), **{**dict(group), **served}
            )
            for group in response.groups
        ]
        return response.model_copy(update={"boot_id": _BOOT_ID, "groups": groups})

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        """Greedy answers of a version, in order; None asks the base model."""

        async def piece(part: list[str]) -> list[TextCompletion]:
            async def send(client: InferenceServer) -> tuple[list[TextCompletion], None]:
                return await client.complete(version, part, prompt), None

            # Ahead of the rollouts, as in a server's own queue.
            answers, _ = await self._dispatcher.ask(version, len(part), send, is_first=True)
            return answers

        await self._membership.wait()
        starts = range(0, len(questions), _QUESTIONS_A_PIECE)
        parts = [piece(questions[start : start + _QUESTIONS_A_PIECE]) for start in starts]
        return [answer for answers in await asyncio.gather(*parts) for answer in answers]

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        """Give every server a version; a slow server is still given it while the others are already asked."""
        await self._membership.wait()
        before = self._versions.active
        self._versions.note(version, folder, activate=activate)
        while True:
            members = await self._membership.wait()
            late = asyncio.Event()
            pushes = (self._push(member, version, late) for member in members)
            try:
                infos = await first_results(self._membership.started(pushes))
            except ServerRejectedError:
                self._versions.forget(version, active=before)
                raise
            finally:
                late.set()
            if infos:
                return infos[0]

    async def _push(self, member: Member, version: int, late: asyncio.Event) -> AdapterInfo | None:
        """Give a member a version; the member leaves if it is away, or fails once nobody waits for it any more."""

        def is_wanted() -> bool:
            return not late.is_set() or version in self._membership.in_use()

        try:
            return await self._versions.give(member, version, again=True, is_wanted=is_wanted)
        except (TrainerError, OSError) as error:
            is_away = isinstance(error, ServerError) and not isinstance(error, ServerRejectedError)
            if not is_away and not late.is_set():
                raise
            self._membership.leave(member, str(error))
            return None

    async def adapter(self, version: int) -> AdapterInfo:
        """A version as the servers hold it; if their digests differ, an answer that differs from the first."""
        while True:
            members = await self._membership.wait()
            holding = [m for m in members if version in m.digests] or members
            answers = await asyncio.gather(
                *(self._try(m, partial(m.client.adapter, version)) for m in holding)
            )
            infos = [info for info in answers if info is not None]
            if infos:
                digest = infos[0].sha256
                return next((info for info in infos if info.sha256 != digest), infos[0])

    async def activate_adapter(self, version: int) -> AdapterInfo:
        """Make ``policy`` name a version that the servers hold, newer or older."""
        folder = self._versions.folders[version]
        return await self.push_adapter(version, folder)

    async def _try(self, member: Member, call: Callable[[], Awaitable[_T]]) -> _T | None:
        """What a call returns; None if the member gave no good answer, which makes it leave."""
        try:
            return await result_in_time(call)
        except ServerRejectedError:
            raise
        except ServerError as error:
            self._membership.leave(member, str(error))
            return None
