"""A model that is asked keeps its weights, whatever a server retires between two requests."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.digests import sha256_of_bytes
from inference_server.wire.schemas import (
    ArmGroup,
    ArmsRequest,
    ArmsResponse,
    ServerStatus,
    Usage,
)
from tests.unit.server_answers import adapter_with, limits_with, status_with
from tests.unit.server_stub import ServerStub
from trainer.client.ask_groups import policy_of
from trainer.client.asked_model import AskedModel, uploaded
from trainer.errors import (
    ConflictError,
    NotFoundError,
    ServerRejectedError,
    ServerUnreachableError,
    UsageError,
)

LIMITS = limits_with(max_model_len_tokens=64, max_groups_in_flight=5, max_samples_per_arm=4)


class FakeServer(ServerStub):
    """Holds versions by the digests of their weights, as the server does, and answers with a version's digest."""

    def __init__(self) -> None:
        self.boot_id = "first"
        self.held: dict[int, str] = {}
        self.seen: dict[int, str] = {}
        self.pushed: list[int] = []
        self.refusal: ServerRejectedError | None = None

    def restart_and_push(self, number: int, sha256: str) -> None:
        """Forget everything, and take another client's adapter."""
        self.boot_id = "second"
        self.held, self.seen = {number: sha256}, {number: sha256}

    async def status(self) -> ServerStatus:
        return status_with(
            boot_id=self.boot_id,
            base_model="base",
            next_version=max(self.seen, default=4) + 1,
            versions=[
                adapter_with(version, sha256=sha256) for version, sha256 in self.held.items()
            ],
            limits=LIMITS,
        )

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        assert not activate
        self.pushed.append(version)
        if self.refusal is not None:
            raise self.refusal
        sha256 = sha256_of_bytes((folder / "adapter_model.safetensors").read_bytes())
        if self.seen.setdefault(version, sha256) != sha256:
            raise ConflictError(409, "was served with another digest")
        self.held[version] = sha256
        return adapter_with(version, sha256=sha256)

    async def delete_adapter(self, version: int) -> None:
        if self.held.pop(version, None) is None:
            raise NotFoundError(404, "not loaded")

    async def answer(self, version: int | None) -> str:
        await asyncio.sleep(0)
        if version not in self.held:
            raise NotFoundError(404, f"version {version} is not loaded")
        return self.held[version]

    async def generate(self, request: ArmsRequest) -> ArmsResponse:
        assert isinstance(request.policy, int)
        text = await self.answer(request.policy)
        group = ArmGroup(id="q", question=text, policy_version=request.policy, arms=[])
        usage = Usage(prompt_tokens=0, completion_tokens=0)
        return ArmsResponse(
            policy_version=request.policy, boot_id=self.boot_id, groups=[group], usage=usage
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"mine")
    return tmp_path


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Nothing waits before it is tried again."""
    with stamina.set_testing(True, attempts=4):
        yield


MINE, OTHER = sha256_of_bytes(b"mine"), sha256_of_bytes(b"other")


async def ask(server: FakeServer, model: AskedModel) -> str:
    return await model.ask(server.answer, give_up_after_s=60)


async def ask_group(model: AskedModel) -> tuple[str, int | None]:
    def request(version: int | None) -> ArmsRequest:
        return ArmsRequest(questions=["?"], policy=policy_of(version))

    (group,) = await model.groups(request, give_up_after_s=60)
    return group.question, group.policy_version


async def test_what_is_retired_between_two_requests_is_uploaded_once_for_all_that_lost_it(
    folder: Path,
) -> None:
    server = FakeServer()
    async with uploaded(server, folder) as model:
        for _ in range(3):
            server.held.clear()
            found = await asyncio.gather(*(ask(server, model) for _ in range(5)))
            assert (set(found), model.version) == ({MINE}, 5)
    assert server.pushed == [5, 5, 5, 5]
    assert not server.held


async def test_a_number_that_another_adapter_has_since_a_restart_is_left_to_it(
    folder: Path,
) -> None:
    server = FakeServer()
    async with uploaded(server, folder) as model:
        assert await ask_group(model) == (MINE, 5)
        # There is no 404: the group would come from the other adapter.
        server.restart_and_push(5, OTHER)
        assert await ask_group(model) == (MINE, 6)
        server.restart_and_push(9, OTHER)
        assert await ask(server, model) == MINE
    assert server.held == {9: OTHER}


async def test_weights_that_the_server_has_are_asked_where_they_are_and_stay(
    folder: Path,
) -> None:
    server = FakeServer()
    server.held = {2: OTHER, 3: MINE}
    async with uploaded(server, folder, await server.status()) as model:
        assert await ask_group(model) == (MINE, 3)
    assert (server.pushed, server.held) == ([], {2: OTHER, 3: MINE})
    async with uploaded(server, folder, await server.status()) as model:
        server.held.clear()
        assert await ask_group(model) == (MINE, 3)
    assert (server.pushed, server.held) == ([3], {})


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (b"other", "was changed while it was asked, and the server has retired its version 5 "),
        (None, ": No such file or directory, and the server has retired its version 5 for newer "),
    ],
)
async def test_other_weights_never_answer_in_place_of_the_lost_ones(
    weights: bytes | None, complaint: str, folder: Path
) -> None:
    server, path = FakeServer(), folder / "adapter_model.safetensors"
    async with uploaded(server, folder) as model:
        path.unlink() if weights is None else path.write_bytes(weights)
        # As long as the server holds it, nothing else is needed.
        assert await ask(server, model) == MINE
        server.held.clear()
        with pytest.raises(UsageError) as caught:
            await ask(server, model)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.pushed == [5]


async def test_an_upload_that_is_refused_ends_it(folder: Path) -> None:
    server = FakeServer()
    async with uploaded(server, folder) as model:
        server.held.clear()
        server.refusal = ServerRejectedError(422, "rank 64 is over the limit")
        with pytest.raises(ServerRejectedError, match="rank 64"):
            await ask(server, model)
    assert server.pushed == [5, 5]


async def test_a_version_that_is_lost_each_time_is_given_up(folder: Path) -> None:
    server = FakeServer()

    async def never(version: int | None) -> str:
        raise NotFoundError(404, "not loaded")

    async with uploaded(server, folder) as model:
        with pytest.raises(ServerUnreachableError, match="has lost version 5, 4 times"):
            await model.ask(never, give_up_after_s=60)


async def test_a_served_version_without_a_folder_cannot_be_restored() -> None:
    server = FakeServer()
    with pytest.raises(UsageError, match=r"^policy-000003 was retired by the server .* are base\)"):
        await ask(server, AskedModel(server, 3))
