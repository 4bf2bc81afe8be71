"""One server of a pool, asked for what only it can answer."""

import asyncio
from collections.abc import Awaitable, Callable

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import ArmsRequest, ArmsResponse
from trainer.errors import ServerUnreachableError
from trainer.servers.member import GivenVersions, Member

_LOOK_EVERY_S = 0.5


class OneOfSeveral:
    """A server as long as it is not restarted; made by `ServerPool.only`."""

    def __init__(
        self,
        member: Member,
        versions: GivenVersions,
        generate: Callable[[ArmsRequest], Awaitable[ArmsResponse]],
    ):
        """``generate`` is the pool's, which asks this server alone."""
        self._member, self._versions, self._generate = member, versions, generate
        self._boot_id = member.boot_id

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        """The groups of a request, of this server.

        Raises:
            ServerUnreachableError: It has left the pool, or was restarted.
        """
        self._require_there()
        response = await self._generate(request)
        self._require_there()
        return response

    async def adapter(self, version: int) -> AdapterInfo:
        """A version as this server holds it, which is waited for while it is being given it.

        Raises:
            ServerUnreachableError: It has left the pool, or was restarted.
        """
        asked = asyncio.create_task(self._versions.listed(self._member, version))
        try:
            while not asked.done():
                self._require_there()
                await asyncio.wait([asked], timeout=_LOOK_EVERY_S)
            return await asked
        finally:
            asked.cancel()

    def _require_there(self) -> None:
        if not self._member.is_up or self._member.boot_id != self._boot_id:
            raise ServerUnreachableError(f"{self._member.name} has left: {self._member.why}")
