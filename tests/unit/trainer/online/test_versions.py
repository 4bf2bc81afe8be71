"""Publishing: a whole adapter on disk, then on the server, under a number never used before."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pytest
import torch
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import given
from hypothesis import strategies as st

from inference_server.wire.adapters.infos import AdapterInfo
from inference_server.wire.schemas import (
    ArmsRequest,
    ArmsResponse,
    FinishReason,
    Question,
    ServerStatus,
    Usage,
)
from tests.unit.groups import RECORDS, group_of
from tests.unit.server_answers import adapter_with, status_with
from tests.unit.server_stub import ServerStub
from tests.unit.versions_in_memory import STATUS, versions_for
from trainer.errors import ConflictError, ServerRejectedError, SyncError
from trainer.model.roles import PolicyRoles
from trainer.online.versions import Versions
from trainer.run_state.journal import Journal
from trainer.run_state.journal_entries import JournaledAdapter
from trainer.run_state.journal_reader import JournalReader
from trainer.run_state.run_adapters import RunAdapters

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class _FakeRoles:
    """Roles whose exported weights are just their name."""

    serve_dtype = torch.float32

    def __init__(self, name: bytes):
        self.name = name

    def export_policy(self, folder: Path) -> None:
        (folder / CONFIG).write_text("{}")
        (folder / WEIGHTS).write_bytes(self.name)


def roles_of(name: bytes = b"weights") -> PolicyRoles:
    return cast(PolicyRoles, _FakeRoles(name))


class FakeClient(ServerStub):
    """A server that remembers what was pushed, and from which folder."""

    def __init__(self, next_version: int = 0, refuses: bool = False):
        self.next_version = next_version
        self.refuses = refuses
        self.taken: set[int] = set()
        """Numbers of somebody else's adapters."""
        self.lies: dict[str, object] = {}
        """Fields of its acknowledgements that are not true."""
        self.pushed: dict[int, tuple[Path, bytes]] = {}
        self.active: int | None = None

    async def status(self) -> ServerStatus:
        return status_with(next_version=self.next_version)

    async def push_adapter(
        self, version: int, folder: Path, *, activate: bool = True
    ) -> AdapterInfo:
        if self.refuses:
            raise ServerRejectedError(422, "no")
        weights = (folder / WEIGHTS).read_bytes()
        if version in self.taken or self.pushed.get(version, (folder, weights))[1] != weights:
            raise ConflictError(409, "another adapter")
        self.pushed[version] = (folder, weights)
        if activate:
            self.active = version
        self.next_version = max(self.next_version, version + 1)
        return adapter_with(
            version, sha256=hashlib.sha256(weights).hexdigest(), active=self.active == version
        ).model_copy(update=self.lies)


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def open_versions(
    tmp_path: Path, portal: BlockingPortal
) -> Iterator[Callable[[FakeClient], Versions]]:
    """Versions on one run folder, each opening it as the next start of the trainer would."""
    journals: list[Journal] = []

    def open_it(client: FakeClient) -> Versions:
        if journals:
            journals[-1].__exit__(None, None, None)
        journals.append(Journal(tmp_path))
        return versions_for(client, portal, RunAdapters(tmp_path / "adapters", journals[-1]))

    yield open_it
    journals[-1].__exit__(None, None, None)


Open = Callable[[FakeClient], Versions]


def journaled(run_folder: Path) -> list[tuple[int, int]]:
    """(step, version) of every adapter that the journal has."""
    return [(adapter.step, adapter.version) for adapter in JournalReader(run_folder).adapters]


def test_a_published_version_is_whole_on_disk_and_pushed_from_there(
    tmp_path: Path, open_versions: Open
) -> None:
    client = FakeClient(next_version=12)
    versions = open_versions(client)
    published = versions.publish(3, roles_of(), token_budget=64)
    assert published.version == 12
    assert (
        published.folder == versions.adapters.folder_of(12) == tmp_path / "adapters/policy-000012"
    )
    assert published.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert client.pushed == {12: (published.folder, b"weights")}
    assert client.active == 12
    assert {path.name for path in published.folder.iterdir()} == {CONFIG, WEIGHTS}
    assert list(published.folder.parent.iterdir()) == [published.folder]
    (adapter,) = JournalReader(tmp_path).adapters
    assert adapter == JournaledAdapter(
        step=3, version=12, sha256=published.sha256, dtype="float32", token_budget=64
    )
    assert (versions.adapters.step_of(12), versions.adapters.version_of(3)) == (3, 12)


@pytest.mark.parametrize(
    ("on_server", "used", "version"),
    [(0, [], 0), (5, [], 5), (5, [2, 3], 5), (5, [2, 7], 8), (0, [0], 1), (0, [99], 100)],
)
def test_a_number_is_one_that_neither_server_nor_run_has_used(
    on_server: int, used: list[int], version: int, tmp_path: Path, open_versions: Open
) -> None:
    with Journal(tmp_path) as journal:
        for step, earlier in enumerate(used):
            journal.write_adapter(
                JournaledAdapter(
                    step=step, version=earlier, sha256="", dtype="float32", token_budget=64
                )
            )
    versions = open_versions(FakeClient(next_version=on_server))
    assert versions.publish(9, roles_of(), token_budget=64).version == version


def test_versions_follow_each_other(open_versions: Open) -> None:
    client = FakeClient()
    versions = open_versions(client)
    numbers = [
        versions.publish(i, roles_of(str(i).encode()), token_budget=64).version for i in range(3)
    ]
    assert numbers == [0, 1, 2]
    assert [weights for _, weights in client.pushed.values()] == [b"0", b"1", b"2"]


def test_a_refused_push_is_an_error_and_its_number_is_kept_for_the_same_weights(
    tmp_path: Path, open_versions: Open
) -> None:
    with pytest.raises(ServerRejectedError):
        open_versions(FakeClient(refuses=True)).publish(1, roles_of(), token_budget=64)
    assert open_versions(FakeClient()).publish(1, roles_of(b"other"), token_budget=64).version == 1
    assert open_versions(FakeClient()).publish(1, roles_of(b"other"), token_budget=64).version == 1
    assert journaled(tmp_path) == [(1, 0), (1, 1)]


@pytest.mark.parametrize("folder_is", ["whole", "missing", "damaged"])
def test_what_a_killed_run_has_published_keeps_its_number(
    folder_is: str, tmp_path: Path, open_versions: Open
) -> None:
    """Killed after the journal's line: before the folder had its name, or before the push."""
    client = FakeClient(next_version=4)
    folder = open_versions(client).publish(1, roles_of(), token_budget=64).folder
    if folder_is == "missing":
        shutil.rmtree(folder)
    elif folder_is == "damaged":
        (folder / WEIGHTS).write_bytes(b"other")
    client.next_version = 0  # it was never pushed
    client.pushed.clear()
    published = open_versions(client).publish(1, roles_of(), token_budget=64)
    assert published.version == 4
    assert client.pushed == {4: (published.folder, b"weights")}
    assert journaled(tmp_path) == [(1, 4)]


def test_a_number_that_is_somebody_elses_by_now_is_given_up_for_another(
    tmp_path: Path, open_versions: Open
) -> None:
    open_versions(FakeClient()).publish(1, roles_of(), token_budget=64)
    # The server lost everything, and another run came first.
    client = FakeClient(next_version=3)
    client.taken = {0, 1, 2}
    assert open_versions(client).publish(1, roles_of(), token_budget=64).version == 3
    assert open_versions(client).publish(1, roles_of(), token_budget=64).version == 3
    assert journaled(tmp_path) == [(1, 0), (1, 3)]
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["policy-000003"]


# --- earlier versions ------------------------------------------------------------------------------


def test_an_earlier_version_is_served_again_without_becoming_the_newest(
    open_versions: Open,
) -> None:
    versions = open_versions(FakeClient())
    for step in range(2):
        versions.publish(step, roles_of(str(step).encode()), token_budget=64)
    fresh = FakeClient()
    versions = open_versions(fresh)
    again = versions.push_again(0)
    assert again is not None
    assert (again.version, again.folder) == (0, versions.adapters.folder_of(0))
    assert again.sha256 == hashlib.sha256(b"0").hexdigest()
    assert (fresh.pushed[0][1], fresh.active) == (b"0", None)


def lose(versions: Versions, client: FakeClient) -> None:
    shutil.rmtree(versions.adapters.folder_of(0))


def damage(versions: Versions, client: FakeClient) -> None:
    (versions.adapters.folder_of(0) / WEIGHTS).write_bytes(b"other")


def take(versions: Versions, client: FakeClient) -> None:
    client.taken = {0}


def retire(versions: Versions, client: FakeClient) -> None:
    versions.adapters.retain(1, ())


@pytest.mark.parametrize("happens", [lose, damage, take, retire])
def test_an_earlier_version_that_cannot_be_had_is_none(
    happens: Callable[[Versions, FakeClient], None], open_versions: Open
) -> None:
    client = FakeClient()
    versions = open_versions(client)
    for step in range(2):
        versions.publish(step, roles_of(str(step).encode()), token_budget=64)
    assert versions.push_again(0) is not None
    happens(versions, client)
    assert versions.push_again(0) is None


@given(
    num_published=st.integers(1, 9), num_kept=st.integers(1, 5), others=st.sets(st.integers(0, 9))
)
def test_the_newest_and_the_named_ones_stay(
    num_published: int, num_kept: int, others: set[int], portal: BlockingPortal
) -> None:
    with TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        versions = versions_for(
            FakeClient(), portal, RunAdapters(Path(folder) / "adapters", journal)
        )
        for step in range(num_published):
            versions.publish(step, roles_of(str(step).encode()), token_budget=64)
            versions.adapters.retain(num_kept, others)
        numbers = range(num_published)
        kept = set(numbers[-num_kept:]) | (others & set(numbers))
        left = {int(path.name[-6:]) for path in versions.adapters.folder_of(0).parent.iterdir()}
        assert left == kept


# --- what the server says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        ({"sha256": "0" * 64}, "with digest 0000"),
        ({"active": False}, "version 3, not active"),
        ({"version": 2}, "acknowledges version 2"),
    ],
)
def test_an_acknowledgement_of_something_else_is_an_error(
    lie: dict[str, object], complaint: str, open_versions: Open
) -> None:
    client = FakeClient(next_version=3)
    client.lies = lie
    with pytest.raises(SyncError, match=complaint) as caught:
        open_versions(client).publish(1, roles_of(), token_budget=64)
    assert hashlib.sha256(b"weights").hexdigest() in str(caught.value)


async def test_tokens_that_the_base_model_does_not_have_stop_the_run() -> None:
    (record, *_) = RECORDS
    group = group_of(record, 12, FinishReason.STOP)  # its highest token is 5

    class Foreign(ServerStub):
        async def generate(self, request: ArmsRequest) -> ArmsResponse:
            usage = Usage(prompt_tokens=0, completion_tokens=0)
            return ArmsResponse(policy_version=12, boot_id="b", groups=[group], usage=usage)

    request = ArmsRequest(questions=[Question(id=record.id, question=record.question)], policy=12)
    found, _ = await versions_for(Foreign(), vocab_size=6).group(request)
    assert found == group
    with pytest.raises(
        SyncError, match=r"group 'r0', arm_0: token id 5, and policy\.base_model has 5"
    ):
        await versions_for(Foreign(), vocab_size=5).group(request)
    limits = STATUS.limits.model_copy(update={"max_model_len_tokens": 4})
    found_so = STATUS.model_copy(update={"limits": limits})
    with pytest.raises(SyncError, match="arm_0: 5 tokens with its prompt, and the context is 4"):
        await versions_for(Foreign(), vocab_size=6, found=found_so).group(request)
