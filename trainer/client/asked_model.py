"""A model while a command asks it: all answers are of the same weights, whatever else happens on the server.

An adapter folder is uploaded as a version. Between two requests nothing keeps the server from retiring it, for example
for the next version of a run in progress; it is then uploaded again, and what was lost is asked again as a whole.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import stamina

from inference_server.wire.digests import sha256_of_file
from inference_server.wire.schemas import (
    ADAPTER_WEIGHTS_FILE,
    ArmGroup,
    ArmsRequest,
    ServerStatus,
    adapter_name,
)
from trainer.client.ask_groups import LostError, ask_again, ask_groups
from trainer.client.protocol import AdapterServer
from trainer.errors import ConflictError, NotFoundError, ServerError, UsageError

_NUM_PUSHES = 5
_IDLE_WITHIN_S = 10.0
"""How long to wait for aborted requests to leave the engine; their version cannot be removed before."""

_T = TypeVar("_T")


class _VersionLostError(Exception):
    """The server does not hold the version that was asked."""


class AskedModel:
    """The base (version None), a served version, or an adapter folder that `uploaded` made one."""

    version: int | None
    """What to ask for now; a folder's may get another number when it is uploaded again."""

    sha256: str | None
    """Digest of its weights; None of the base, and if it is not known."""

    def __init__(self, client: AdapterServer, version: int | None, sha256: str | None = None):
        self.version = version
        self.sha256 = sha256
        self._client = client
        self._folder: Path | None = None
        self._boot_id = ""
        self._is_own = False
        # All requests in flight lose the version at once, and one of them uploads it.
        self._changes = asyncio.Lock()

    async def ask(
        self, ask: Callable[[int | None], Awaitable[_T]], *, give_up_after_s: float
    ) -> _T:
        """What ``ask`` returns for the model's version; it is called again if the answer or the version is lost.

        Raises:
            ServerError: The answer was lost again and again for ``give_up_after_s``, or the server refused.
            UsageError: The version was lost, and it has no folder, or its folder is not what it was any more.
        """

        async def ask_once() -> _T:
            if self._folder is None:
                return await self._ask_served(ask)
            with suppress(_VersionLostError):
                return await _ask(ask, self.version)
            await self._restore(self._folder)
            # At once, since a fast run retires it again within seconds.
            try:
                return await _ask(ask, self.version)
            except _VersionLostError as error:
                raise LostError(str(error)) from error

        found, _ = await ask_again(ask_once, give_up_after_s=give_up_after_s)
        return found

    async def groups(
        self, request_of: Callable[[int | None], ArmsRequest], *, give_up_after_s: float
    ) -> list[ArmGroup]:
        """The groups of a request, all of one version; see `ask`."""

        async def ask(version: int | None) -> list[ArmGroup]:
            groups, boot_id = await ask_groups(self._client, request_of(version))
            # The number is right, but after a restart another client's adapter may have it.
            if (
                self._folder is not None
                and boot_id != self._boot_id
                and not await self._restore(self._folder)
            ):
                return await ask(self.version)
            return groups

        return await self.ask(ask, give_up_after_s=give_up_after_s)

    async def hold(self, folder: Path, found: ServerStatus | None = None) -> None:
        """Make the server hold a folder as the model's version.

        Args:
            folder: The adapter folder.
            found: The server's status. If it lists a version with the folder's weights, then this one is used.
        """
        self._folder, self.sha256 = folder, await _digest(folder)
        same = [v.version for v in found.versions if v.sha256 == self.sha256] if found else []
        if found is None or not same:
            await self._upload(folder)
        else:
            self.version, self._boot_id = same[-1], found.boot_id

    async def remove(self) -> None:
        """Remove the version if it was uploaded for this model."""
        # A failed removal must not discard the answers or hide an error of the block. The server later
        # retires a version that stays for a newer one, as it does after a killed command.
        with suppress(ServerError):
            if self._is_own and self.version is not None:
                await _remove(self._client, self.version)

    async def _ask_served(self, ask: Callable[[int | None], Awaitable[_T]]) -> _T:
        """Ask the base, or a version that somebody else has uploaded."""
        try:
            return await ask(self.version)
        except NotFoundError:
            served = {info.version: info.name for info in (await self._client.status()).versions}
            if self.version is None or self.version in served:
                raise
            raise UsageError(
                f"{adapter_name(self.version)} was retired by the server while it was asked (now there are "
                f"{', '.join(['base', *served.values()])}): name its adapter folder instead, which is uploaded again if "
                "that happens"
            ) from None

    async def _restore(self, folder: Path) -> bool:
        """Upload the folder again unless the server holds it; returns whether it did."""
        async with self._changes:
            status = await self._client.status()
            held = {info.version: info.sha256 for info in status.versions}
            if self.version is not None and held.get(self.version) == self.sha256:
                self._boot_id = status.boot_id
                return True
            try:
                is_same = await _digest(folder) == self.sha256
            except OSError as error:
                raise UsageError(
                    f"{folder}: {error.strerror}, and the server has retired its version {self.version} for newer "
                    "ones: name a copy of the adapter that nobody removes"
                ) from None
            if not is_same:
                raise UsageError(
                    f"{folder} was changed while it was asked, and the server has retired its version {self.version} "
                    "for newer ones: ask a copy of the adapter that nobody changes"
                )
            await self._upload(folder)
            return False

    async def _upload(self, folder: Path) -> None:
        earlier = self.version
        # Another client, such as a run in progress, may take the number in between.
        async for attempt in stamina.retry_context(on=ConflictError, attempts=_NUM_PUSHES):
            with attempt:
                status = await self._client.status()
                # The number that it had before, unless a server without its state folder gave it to another adapter.
                version, earlier = status.next_version if earlier is None else earlier, None
                await self._client.push_adapter(version, folder, activate=False)
                self.version, self._boot_id, self._is_own = version, status.boot_id, True


@asynccontextmanager
async def uploaded(
    client: AdapterServer, folder: Path, found: ServerStatus | None = None
) -> AsyncIterator[AskedModel]:
    """Serve an adapter folder as a version within the block; ``policy`` does not move to it.

    Args:
        client: The server.
        folder: The adapter folder.
        found: See `AskedModel.hold`. A version that was there before stays.
    """
    model = AskedModel(client, None)
    await model.hold(folder, found)
    try:
        yield model
    finally:
        await model.remove()


async def _ask(ask: Callable[[int | None], Awaitable[_T]], version: int | None) -> _T:
    try:
        return await ask(version)
    except NotFoundError as error:
        raise _VersionLostError(f"the server has lost version {version}") from error


async def _digest(folder: Path) -> str:
    return await asyncio.to_thread(sha256_of_file, folder / ADAPTER_WEIGHTS_FILE)


async def _remove(client: AdapterServer, version: int) -> None:
    async for attempt in stamina.retry_context(
        on=ConflictError, timeout=_IDLE_WITHIN_S, attempts=None
    ):
        with attempt:
            await client.delete_adapter(version)
