"""Versions that the server loses are pushed again before anything else is asked of them."""

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import (
    ADAPTER_WEIGHTS_FILE,
    ArmCompletion,
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Question,
    ServerStatus,
    Usage,
    adapter_name,
)
from tests.unit.server_answers import adapter_with, status_with
from tests.unit.server_stub import ServerStub
from tests.unit.versions_in_memory import versions_for
from trainer.client.protocol import GreedyPrompt, TextCompletion
from trainer.errors import (
    NotFoundError,
    ServerError,
    ServerRejectedError,
    ServerUnreachableError,
    SyncError,
)
from trainer.online.versions import Versions
from trainer.run_state.journal import Journal
from trainer.run_state.run_adapters import RunAdapters

REQUEST = ArmsRequest(questions=[Question(id="q", question="?")], seed=1, policy=3)


class FakeServer(ServerStub):
    """Holds versions until it is restarted; used in place of the client."""

    def __init__(self) -> None:
        self.boot_id = "first"
        self.base_model = "m"
        self.base_fingerprint: str | None = "f"
        self.held: dict[int, bytes] = {}
        self.active: int | None = None
        self.log: list[tuple[Any, ...]] = []
        self.before_answer: list[Callable[[], object]] = []
        """What happens before each of the next answers of `generate`."""
        self.aborts = 0
        self.refusal: ServerRejectedError | None = None
        self.serves: Callable[[int], int] = lambda asked: asked

    def restart(self, *kept: int) -> None:
        self.boot_id = "second" if self.boot_id == "first" else "third"
        self.held = {version: self.held[version] for version in kept}
        self.active = max(kept, default=None)

    def _info(self, version: int) -> AdapterInfo:
        if version not in self.held:
            raise NotFoundError(404, f"version {version} is not loaded", "version")
        return adapter_with(
            version,
            sha256=hashlib.sha256(self.held[version]).hexdigest(),
            active=version == self.active,
        )

    async def status(self) -> ServerStatus:
        return status_with(
            boot_id=self.boot_id,
            base_model=self.base_model,
            base_fingerprint=self.base_fingerprint,
            active_version=self.active,
            next_version=max(self.held, default=-1) + 1,
            versions=[self._info(version) for version in self.held],
        )

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        self.log.append(("push", version, activate))
        self.held[version] = (folder / ADAPTER_WEIGHTS_FILE).read_bytes()
        if activate:
            self.active = version
        return self._info(version)

    async def activate_adapter(self, version: int) -> AdapterInfo:
        self.log.append(("activate", version))
        self.active = version
        return self._info(version)

    async def adapter(self, version: int) -> AdapterInfo:
        return self._info(version)

    async def complete(
        self, version: int | None, questions: list[str], prompt: GreedyPrompt
    ) -> list[TextCompletion]:
        assert version is not None
        self._info(version)
        return [TextCompletion(text=q, num_tokens=1, truncated=False) for q in questions]

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        assert isinstance(request.policy, int)
        self.log.append(("generate", request.policy))
        if self.refusal is not None:
            raise self.refusal
        if self.before_answer:
            self.before_answer.pop(0)()
        self._info(request.policy)
        reason = FinishReason.STOP
        if self.aborts:
            self.aborts -= 1
            reason = FinishReason.ABORT
        completion = ArmCompletion(
            arm="a",
            sample=0,
            text="",
            finish_reason=reason,
            temperature=1,
            top_p=1,
            seed=None,
            prompt_token_ids=[1],
            token_ids=[2],
            logprobs=[-1.0],
        )
        version = self.serves(request.policy)
        return ArmsResponse(
            policy_version=version,
            boot_id=self.boot_id,
            groups=[ArmGroup(id="q", question="?", policy_version=version, arms=[completion])],
            usage=Usage(prompt_tokens=0, completion_tokens=0),
        )


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=4):
        yield


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def versions(server: FakeServer, tmp_path: Path) -> AsyncIterator[Versions]:
    """Versions 3 and 4 are pushed, 4 is active."""
    for version in (3, 4):
        folder = tmp_path / adapter_name(version)
        folder.mkdir()
        (folder / ADAPTER_WEIGHTS_FILE).write_bytes(b"%d" % version)
    with Journal(tmp_path) as journal:
        made = versions_for(
            server, adapters=RunAdapters(tmp_path, journal), found=await server.status()
        )
        for version in (3, 4):
            assert (await made.push(version)).active
        server.log.clear()
        yield made


async def test_a_group_of_a_healthy_server_costs_one_request(
    versions: Versions, server: FakeServer
) -> None:
    group, num_lost = await versions.group(REQUEST)
    assert (group.id, num_lost) == ("q", 0)
    assert server.log == [("generate", 3)]


@pytest.mark.parametrize(
    ("kept", "pushed_again", "num_lost"),
    [
        ((), [("push", 3, False), ("push", 4, True)], 1),
        ((3,), [("push", 4, True)], 0),
        ((4,), [("push", 3, False)], 1),
        ((3, 4), [], 0),
    ],
)
async def test_a_restarted_server_gets_what_it_has_not_kept(
    kept: tuple[int, ...],
    pushed_again: list[object],
    num_lost: int,
    versions: Versions,
    server: FakeServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.restart(*kept)
    group, lost = await versions.group(REQUEST)
    assert (group.policy_version, lost) == (3, num_lost)
    assert server.log == [("generate", 3), *pushed_again, *[("generate", 3)] * num_lost]
    assert (sorted(server.held), server.active) == ([3, 4], 4)
    (line,) = [record.getMessage() for record in caplog.records]
    numbers = ",".join(str(entry[1]) for entry in pushed_again) or "none"  # type: ignore[index]
    assert line == (
        f"event=server_restarted boot_id=second was=first kept={len(kept)} pushed_again={numbers}"
    )
    # It is told once, and known from then on.
    await versions.group(REQUEST)
    assert len(caplog.records) == 1


async def test_a_group_of_a_restarted_server_that_then_has_not_the_version_is_asked_for_again(
    versions: Versions, server: FakeServer
) -> None:
    server.restart(3, 4)

    def served(version: int) -> int:
        # Perhaps it was another run's, and nobody can tell any more.
        server.serves = lambda asked: asked
        del server.held[version]
        return version

    server.serves = served
    _, num_lost = await versions.group(REQUEST)
    assert num_lost == 1
    assert server.log == [("generate", 3), ("push", 3, False), ("generate", 3)]


async def test_a_version_that_is_deleted_is_pushed_again(
    versions: Versions, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    del server.held[3]
    await versions.group(REQUEST)
    assert server.log == [("generate", 3), ("push", 3, False), ("generate", 3)]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "event=versions_lost boot_id=first pushed_again=3"


async def test_versions_that_are_lost_twice_from_one_server_are_said_to_be_pushed_out(
    versions: Versions, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    lost = "event=versions_lost boot_id={} pushed_again=3"
    advice = (
        "event=versions_pushed_out max_loaded_versions=8 advice='others, such as another run, push out the versions "
        "of this run: start the server with a --max-loaded-versions of 3 for each run'"
    )
    for boot_id in ("first", "second"):
        for lines in ([lost], [lost, advice], [lost]):
            caplog.clear()
            del server.held[3]
            await versions.group(REQUEST)
            assert caplog.messages == [line.format(boot_id) for line in lines]
        server.restart(3, 4)
        await versions.group(REQUEST)


async def test_the_active_version_is_activated_where_the_server_kept_it_inactive(
    versions: Versions, server: FakeServer
) -> None:
    server.restart(3, 4)
    server.active = None
    await versions.group(REQUEST)
    assert ("activate", 4) in server.log
    assert server.active == 4


async def test_a_server_that_restarts_while_it_is_brought_back_is_brought_back_again(
    versions: Versions, server: FakeServer
) -> None:
    server.before_answer = [server.restart, server.restart]
    group, num_lost = await versions.group(REQUEST)
    assert (group.policy_version, num_lost) == (3, 2)
    assert server.active == 4


async def test_an_aborted_group_is_asked_for_again_by_the_same_request(
    versions: Versions, server: FakeServer
) -> None:
    server.aborts = 2
    group, num_lost = await versions.group(REQUEST)
    assert num_lost == 2
    assert {arm.finish_reason for arm in group.arms} == {FinishReason.STOP}


async def test_other_weights_under_a_number_of_ours_end_the_run(
    versions: Versions, server: FakeServer
) -> None:
    server.restart(3, 4)
    server.held[3] = b"somebody else's"
    with pytest.raises(SyncError, match="version 3 with digest"):
        await versions.group(REQUEST)


async def test_another_server_under_the_same_address_ends_the_run(
    versions: Versions, server: FakeServer
) -> None:
    server.restart()
    server.base_model, server.base_fingerprint = "another", None
    with pytest.raises(SyncError, match="has base_model another after its restart and had m"):
        await versions.group(REQUEST)


async def test_the_base_under_another_name_is_the_same_and_another_under_its_name_is_not(
    versions: Versions, server: FakeServer
) -> None:
    server.restart()
    server.base_model = "path/to/m"
    await versions.group(REQUEST)
    server.restart()
    server.base_fingerprint = "g"
    with pytest.raises(SyncError, match="has base_fingerprint g after its restart and had f"):
        await versions.group(REQUEST)


async def test_another_version_than_the_one_asked_for_is_an_error(
    versions: Versions, server: FakeServer
) -> None:
    server.serves = lambda asked: asked + 1
    with pytest.raises(ServerError, match="asked version 3 for a group and got one of 4"):
        await versions.group(REQUEST)


@pytest.mark.parametrize("how", ["aborts", "loses"])
async def test_what_is_lost_for_ever_is_given_up(
    how: str, versions: Versions, server: FakeServer
) -> None:
    if how == "aborts":
        server.aborts = 99
    else:
        server.before_answer = [lambda: server.held.__delitem__(3)] * 99
    with pytest.raises(ServerUnreachableError, match=re.escape("4 times within 60 s")):
        await versions.group(REQUEST)


async def test_whatever_is_asked_of_a_version_that_was_lost_waits_until_it_is_back(
    versions: Versions, server: FakeServer
) -> None:
    server.restart()
    assert (await versions.info(4)).active
    server.restart()
    prompt = GreedyPrompt(system_prompt="", prompt_format="plain", max_tokens=5)
    completions = await versions.complete(3, ["a", "b"], prompt)
    assert [completion.text for completion in completions] == ["a", "b"]
    assert sorted(server.held) == [3, 4]


@pytest.mark.parametrize("activate", [True, False])
async def test_what_was_pushed_is_active_or_not_after_a_restart_too(
    activate: bool, versions: Versions, server: FakeServer
) -> None:
    assert (await versions.push(3, activate=activate)).active == activate
    server.restart()
    await versions.group(REQUEST)
    assert server.active == (3 if activate else 4)


async def test_other_refusals_are_not_about_versions(
    versions: Versions, server: FakeServer
) -> None:
    server.refusal = ServerRejectedError(413, "too large")
    with pytest.raises(ServerRejectedError, match="too large"):
        await versions.group(REQUEST)
    assert server.log == [("generate", 3)]
