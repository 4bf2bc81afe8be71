"""The versions of a run on the server: pushed once, and again where the server has lost them.

A server that was started again knows no version, or only those that its state folder has kept. Versions
are immutable and their files stay with the run, so whatever is asked of one that is gone waits until it
is back; nothing is ever asked of another in its place.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import stamina

from inference_server.wire.schemas import (
    ADAPTER_WEIGHTS_FILE,
    AdapterInfo,
    ArmGroup,
    ArmsRequest,
    FinishReason,
    ServerStatus,
    adapter_name,
)
from trainer.client.arms_client import ArmsClient, TextCompletion
from trainer.client.retries import Patience
from trainer.errors import ServerError, ServerRejectedError, ServerUnreachableError, SyncError

_NOT_FOUND = 404
_JITTER_S = 0.1

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class _LostError(Exception):
    """What was asked for is gone, and can be asked for again. Only lives inside the retry loop."""


class Serving:
    """Pushes versions, asks them, and brings them back."""

    def __init__(
        self,
        client: ArmsClient,
        folder: Path,
        found: ServerStatus,
        *,
        give_up_after_s: float,
    ):
        """Nothing is sent before the first call.

        Args:
            client: The server.
            folder: Holds a folder a version, as `Publisher` writes them.
            found: The server as the run found it.
            give_up_after_s: How long the same thing is asked for that is lost again and again.
        """
        self._client = client
        self._folder = folder
        self._found = found
        self._boot_id = found.boot_id
        self._give_up_after_s = give_up_after_s
        self._active: int | None = None
        # What is lost is pushed once, whoever misses it, and never while a newer one is activated.
        self._changes = asyncio.Lock()

    async def next_version(self) -> int:
        """The lowest number that the server has never had."""
        return (await self._client.status()).next_version

    async def push(self, version: int, *, activate: bool = True) -> AdapterInfo:
        """Make the server hold a version, as the active one or beside it; it may be away meanwhile."""
        async with self._changes:
            info = await self._client.push_adapter(
                version, self._folder_of(version), activate=activate
            )
            if activate:
                self._active = version
            return info

    async def ensure(self, version: int) -> None:
        """Push a version, and the active one, where the server does not hold them.

        Raises:
            SyncError: It holds other weights under a number, or came back as another server.
        """
        async with self._changes:
            status = await self._client.status()
            for name in ("base_model", "base_dtype"):
                was, now = getattr(self._found, name), getattr(status, name)
                if was != now:
                    raise SyncError(f"the server came back with {name} {now}; it had {was}")
            held = {info.version: info.sha256 for info in status.versions}
            active, pushed = self._active, []
            for number in sorted({version} if active is None else {version, active}):
                if number not in held:
                    await self._client.push_adapter(
                        number, self._folder_of(number), activate=number == active
                    )
                    pushed.append(number)
                elif held[number] != (ours := self._digest(number)):
                    raise SyncError(
                        f"the server holds version {number} with digest {held[number]}; the run's "
                        f"has {ours}: something else was pushed under its number"
                    )
            if active is not None and active != status.active_version and active not in pushed:
                await self._client.activate_adapter(active)
            self._tell(status, pushed)
            self._boot_id = status.boot_id

    def _tell(self, status: ServerStatus, pushed: list[int]) -> None:
        numbers = ",".join(map(str, pushed)) or "none"
        if status.boot_id != self._boot_id:
            _log.warning(
                "event=server_restarted boot_id=%s was=%s kept=%d pushed_again=%s",
                *(status.boot_id, self._boot_id, len(status.versions), numbers),
            )
        elif pushed:
            _log.warning("event=versions_lost boot_id=%s pushed_again=%s", self._boot_id, numbers)

    def _folder_of(self, version: int) -> Path:
        return self._folder / adapter_name(version)

    def _digest(self, version: int) -> str:
        with (self._folder_of(version) / ADAPTER_WEIGHTS_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    async def info(self, version: int) -> AdapterInfo:
        """A version as the server holds it."""
        info, _ = await self._ask(version, lambda: self._client.adapter(version))
        return info

    async def complete(
        self, version: int, prompts: list[str], *, max_tokens: int
    ) -> list[TextCompletion]:
        """A version's greedy completions of plain prompts, in order."""
        completions, _ = await self._ask(
            version,
            lambda: self._client.complete(adapter_name(version), prompts, max_tokens=max_tokens),
        )
        return completions

    async def group(self, request: ArmsRequest) -> tuple[ArmGroup, int]:
        """The group of a request for one question of one version, and how often it was lost before.

        What is aborted, or asked of a version that is gone, is neither right nor wrong: it is asked for
        again with the same seed, and only a whole group is returned.

        Raises:
            ServerError: The group is of another version than the one asked for, or never came.
            SyncError: See `ensure`.
        """
        version = request.policy
        if not isinstance(version, int):
            raise TypeError(f"a group is asked of one version, not of {version!r}")

        async def ask() -> ArmGroup:
            response = await self._client.generate(request)
            (group,) = response.groups
            if group.policy_version != version:
                raise ServerError(
                    f"asked version {version} for a group and got one of {group.policy_version}"
                )
            if any(arm.finish_reason is FinishReason.ABORT for arm in group.arms):
                raise _LostError(f"the server aborted group {group.id!r}")
            if response.boot_id != self._boot_id:
                # Whole, and of the right number; it counts once the weights are known to be ours.
                await self.ensure(version)
            return group

        return await self._ask(version, ask)

    async def _ask(self, version: int, ask: Callable[[], Awaitable[_T]]) -> tuple[_T, int]:
        """What ``ask`` returns, and how often it was lost, or the version gone, before it did."""
        patience, num_lost = Patience(self._give_up_after_s), 0

        def asks_again(error: Exception) -> bool:
            return isinstance(error, _LostError) and patience.lasts()

        try:
            async for attempt in stamina.retry_context(
                on=asks_again, timeout=None, attempts=None, wait_jitter=_JITTER_S
            ):
                with attempt:
                    try:
                        return await ask(), num_lost
                    except _LostError:
                        num_lost += 1
                        raise
                    except ServerRejectedError as error:
                        if error.status != _NOT_FOUND:
                            raise
                        num_lost += 1
                        await self.ensure(version)
                        raise _LostError(f"the server has lost version {version}") from error
        except _LostError as error:
            raise ServerUnreachableError(
                f"{error}, {num_lost} times within {self._give_up_after_s:g} s"
            ) from None
        raise AssertionError("an attempt returns or raises")
