"""The life cycle of a run's versions: trained weights are written, pushed, pushed again, removed.

A server that was restarted has no versions, or only those in its state folder. Versions are immutable and their
files stay with the run, so a request for a lost version waits until that version is pushed again; no other version
ever answers in its place. `trainer.online.weight_sync.proofs` proves that the server serves what was pushed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import ArmGroup, ArmsRequest, ServerStatus
from trainer.client.ask_groups import LostError, ask_again, ask_groups
from trainer.client.compatibility import base_field
from trainer.client.protocol import GreedyPrompt, GroupServer, TextCompletion
from trainer.client.request_thread import RequestThread
from trainer.config.sections import TrainConfig
from trainer.errors import ConflictError, NotFoundError, SyncError
from trainer.model.roles import PolicyRoles
from trainer.online.lost_versions import LostVersions
from trainer.online.published import Published
from trainer.rollouts.rows import flaw_in_tokens
from trainer.run_state.journal_entries import JournaledAdapter
from trainer.run_state.run_adapters import RunAdapters

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class Versions:
    """Owns a run's versions. Plain methods are for the training thread, coroutines for the thread of ``requests``."""

    newest: Published
    """The version that was published last; set by the first `publish`."""

    def __init__(
        self,
        requests: RequestThread,
        adapters: RunAdapters,
        config: TrainConfig,
        *,
        found: ServerStatus,
        vocab_size: int,
    ):
        """Nothing is sent before the first call.

        Args:
            requests: The server, and the thread that talks to it.
            adapters: The run's versions on its disk.
            config: The run's configuration.
            found: The server's status when the run started.
            vocab_size: How many tokens the trainer's base model has.
        """
        self._vocab_size, self._context_tokens = vocab_size, found.limits.max_model_len_tokens
        self.requests = requests
        self.adapters = adapters
        self._server = requests.server
        self._found = found
        self._boot_id = found.boot_id
        self._give_up_after_s = config.server.give_up_after_s
        self._lost = LostVersions(max_staleness=config.rollout.max_staleness)
        self._active: int | None = None
        # Pushes happen one at a time, so that a lost version is pushed only once, and not while a newer one is
        # activated.
        self._changes = asyncio.Lock()

    def publish(self, step: int, roles: PolicyRoles, *, token_budget: int) -> Published:
        """Write the policy after a step, push it and make it the active version.

        If a killed run already wrote a version of this step with the same weights, it keeps its number.

        Args:
            step: Counted from 1; 0 is the start.
            roles: Hold the policy.
            token_budget: The most tokens of one of the step's micro-batches.

        Raises:
            SyncError: The server acknowledges something else than was pushed.
        """
        while True:
            adapter = self.adapters.write(
                step,
                roles,
                lambda: self.requests.call(self._server.status).next_version,
                token_budget=token_budget,
            )
            try:
                info = self.requests.call(self.push, adapter.version)
                break
            except ConflictError:
                # Another run has taken this number meanwhile; the server's status has the next free one.
                _log.warning("event=number_taken version=%d by=another_run", adapter.version)
                self.adapters.remove(adapter.version)
        _require_acknowledged(adapter, info)
        folder = self.adapters.folder_of(adapter.version)
        self.newest = Published(version=adapter.version, folder=folder, sha256=adapter.sha256)
        return self.newest

    def push_again(self, version: int) -> Published | None:
        """Make the server hold an earlier version beside the active one.

        Returns None if its adapter is deleted or damaged, or the server holds another run's adapter under its number.
        """
        try:
            if not self.adapters.is_whole(version):
                return None
            self.requests.call(partial(self.push, version, activate=False))
            return self.earlier(version)
        except (OSError, ConflictError):
            return None

    def earlier(self, version: int) -> Published:
        """An earlier version as it is on the run's disk; raises OSError if it is not there."""
        folder, sha256 = self.adapters.folder_of(version), self.adapters.sha256_of(version)
        return Published(version=version, folder=folder, sha256=sha256, activated=False)

    async def push(self, version: int, *, activate: bool = True) -> AdapterInfo:
        """Make the server hold a version, as the active one or beside it; retries while the server is away."""
        async with self._changes:
            info = await self._server.push_adapter(
                version, self.adapters.folder_of(version), activate=activate
            )
            if activate:
                self._active = version
            return info

    async def group(
        self, request: ArmsRequest, server: GroupServer | None = None
    ) -> tuple[ArmGroup, int]:
        """The whole group of a request with one question and one version, and how often it was lost before.

        ``server`` is the one of several servers that has to generate it; if it is None, any may.

        Raises:
            ServerError: The group comes from another version than the one asked for, or never came.
            SyncError: The server holds other weights under a version's number, was restarted with another base
                model or dtype, or answers with tokens that the base model does not have or that exceed its context.
        """
        version, size = request.policy, self._vocab_size
        if not isinstance(version, int):
            raise TypeError(f"policy must be a version number, got {version!r}")

        async def ask() -> ArmGroup:
            (group,), boot_id = await ask_groups(server or self._server, request)
            # The version's number is right, but after a restart the weights under it may not be the run's.
            if boot_id != self._boot_id and not await self._restore(version):
                raise LostError(
                    f"the restarted server answered without the run's version {version}"
                )
            if flaw := flaw_in_tokens(group.arms, size, context_tokens=self._context_tokens):
                raise SyncError(
                    f"group {group.id!r}, {flaw}; does the server serve the base model?"
                )
            return group

        return await self._ask(version, ask)

    async def complete(
        self, version: int, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        """A version's greedy answers, in order."""
        completions, _ = await self._ask(
            version, lambda: self._server.complete(version, questions, prompt)
        )
        return completions

    async def info(self, version: int) -> AdapterInfo:
        """A version as the server holds it."""
        info, _ = await self._ask(version, lambda: self._server.adapter(version))
        return info

    async def _ask(self, version: int, ask: Callable[[], Awaitable[_T]]) -> tuple[_T, int]:
        """What ``ask`` returns, and how often the answer or the version was lost before."""

        async def ask_once() -> _T:
            try:
                return await ask()
            except NotFoundError as error:
                await self._restore(version)
                raise LostError(f"the server has lost version {version}") from error

        return await ask_again(ask_once, give_up_after_s=self._give_up_after_s)

    async def _restore(self, version: int) -> bool:
        """Push a version and the active version if the server does not hold them; returns whether it held the version.

        Raises:
            SyncError: The server holds other weights under a number, or serves another base model or dtype.
        """
        async with self._changes:
            status = await self._server.status()
            for name in (base_field(self._found, status), "base_dtype"):
                was, now = getattr(self._found, name), getattr(status, name)
                if was != now:
                    raise SyncError(
                        f"the server has {name} {now} after its restart and had {was}: start it as it was"
                    )
            held = {info.version: info.sha256 for info in status.versions}
            active, pushed = self._active, []
            for number in sorted({version} if active is None else {version, active}):
                if number not in held:
                    folder = self.adapters.folder_of(number)
                    await self._server.push_adapter(number, folder, activate=number == active)
                    pushed.append(number)
                elif held[number] != (ours := self.adapters.sha256_of(number)):
                    raise SyncError(
                        f"the server holds version {number} with digest {held[number]}; the run's "
                        f"has {ours}: something else was pushed under its number"
                    )
            if active is not None and active != status.active_version and active not in pushed:
                await self._server.activate_adapter(active)
            self._lost.restored(status, pushed, was=self._boot_id)
            self._boot_id = status.boot_id
            self._context_tokens = status.limits.max_model_len_tokens
            return version not in pushed


def _require_acknowledged(adapter: JournaledAdapter, info: AdapterInfo) -> None:
    """Compare the server's answer to a push with what was pushed.

    Raises:
        SyncError: The answer has another number or digest, or the version is not active.
    """
    if (info.version, info.sha256, info.active) != (adapter.version, adapter.sha256, True):
        state = "active" if info.active else "not active"
        raise SyncError(
            f"pushed version {adapter.version} with digest {adapter.sha256}, and the server "
            f"acknowledges version {info.version}, {state}, with digest {info.sha256}"
        )
