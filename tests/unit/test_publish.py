"""Publishing: a whole adapter on disk, then on the server, under a number never used before."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from inference_server.schemas import AdapterInfo, ServerStatus
from trainer.errors import ServerRejectedError, SyncError
from trainer.publish import Publisher

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class FakeRoles:
    """Exports its name as weights."""

    def __init__(self, name: bytes = b"weights"):
        self.name = name

    def export_policy(self, folder: Path) -> None:
        (folder / CONFIG).write_text("{}")
        (folder / WEIGHTS).write_bytes(self.name)


class FakeClient:
    """A server that remembers what was pushed, and from which folder."""

    def __init__(self, next_version: int = 0, refuses: bool = False):
        self.next_version = next_version
        self.refuses = refuses
        self.lies: dict[str, object] = {}
        """Fields of its acknowledgements that are not true."""
        self.pushed: dict[int, tuple[Path, bytes]] = {}

    async def status(self) -> ServerStatus:
        return ServerStatus.model_validate(
            {
                "boot_id": "b",
                "base_model": "m",
                "base_dtype": "float32",
                "active_version": None,
                "versions": [],
                "next_version": self.next_version,
                "groups_in_flight": 0,
                "requests_in_flight": 0,
                "limits": {
                    "max_model_len_tokens": 1,
                    "max_lora_rank": 1,
                    "max_groups_in_flight": 1,
                    "max_questions": 1,
                    "max_samples_per_arm": 1,
                    "max_adapter_bytes": 1,
                    "max_body_bytes": 1,
                    "max_request_s": 1.0,
                    "max_loaded_versions": 1,
                },
            }
        )

    async def push_adapter(self, version: int, folder: Path) -> AdapterInfo:
        if self.refuses:
            raise ServerRejectedError(422, "no")
        weights = (folder / WEIGHTS).read_bytes()
        assert version not in self.pushed
        self.pushed[version] = (folder, weights)
        self.next_version = max(self.next_version, version + 1)
        return AdapterInfo(
            version=version,
            name=folder.name,
            sha256=hashlib.sha256(weights).hexdigest(),
            rank=4,
            size_bytes=len(weights),
            active=True,
            num_leases=0,
            created_at=0.0,
        ).model_copy(update=self.lies)


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


def test_a_published_version_is_whole_on_disk_and_pushed_from_there(
    tmp_path: Path, portal: BlockingPortal
) -> None:
    client = FakeClient(next_version=12)
    publisher = Publisher(tmp_path / "run" / "adapters", client, portal)
    published = publisher.publish(FakeRoles())
    assert published.version == 12
    assert published.folder == publisher.folder_of(12) == tmp_path / "run/adapters/policy-000012"
    assert published.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert client.pushed == {12: (published.folder, b"weights")}
    assert {path.name for path in published.folder.iterdir()} == {CONFIG, WEIGHTS}
    assert list(published.folder.parent.iterdir()) == [published.folder]


@pytest.mark.parametrize(
    ("on_server", "in_folder", "version"),
    [
        (0, [], 0),
        (5, [], 5),
        (5, [2, 3], 5),
        (5, [2, 7], 8),
        (0, [0], 1),
        (0, [99], 100),
    ],
)
def test_a_number_is_one_that_neither_server_nor_run_has_used(
    on_server: int, in_folder: list[int], version: int, tmp_path: Path, portal: BlockingPortal
) -> None:
    client = FakeClient(next_version=on_server)
    publisher = Publisher(tmp_path, client, portal)
    for used in in_folder:
        publisher.folder_of(used).mkdir()
    assert publisher.publish(FakeRoles()).version == version


def test_versions_follow_each_other(tmp_path: Path, portal: BlockingPortal) -> None:
    client = FakeClient()
    publisher = Publisher(tmp_path, client, portal)
    versions = [publisher.publish(FakeRoles(str(i).encode())).version for i in range(3)]
    assert versions == [0, 1, 2]
    assert [weights for _, weights in client.pushed.values()] == [b"0", b"1", b"2"]


def test_what_a_killed_export_left_is_thrown_away(tmp_path: Path, portal: BlockingPortal) -> None:
    leftover = tmp_path / "policy-000000.unfinished"
    leftover.mkdir()
    (leftover / "junk").touch()
    published = Publisher(tmp_path, FakeClient(), portal).publish(FakeRoles())
    assert published.version == 0
    assert {path.name for path in published.folder.iterdir()} == {CONFIG, WEIGHTS}
    assert not leftover.exists()


def test_a_refused_push_is_an_error_and_its_number_is_not_used_again(
    tmp_path: Path, portal: BlockingPortal
) -> None:
    with pytest.raises(ServerRejectedError):
        Publisher(tmp_path, FakeClient(refuses=True), portal).publish(FakeRoles())
    assert Publisher(tmp_path, FakeClient(), portal).publish(FakeRoles(b"other")).version == 1


@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        ({"sha256": "0" * 64}, "with digest 0000"),
        ({"active": False}, "version 3, not active"),
        ({"version": 2}, "acknowledges version 2"),
    ],
)
def test_an_acknowledgement_of_something_else_is_an_error(
    lie: dict[str, object], complaint: str, tmp_path: Path, portal: BlockingPortal
) -> None:
    client = FakeClient(next_version=3)
    client.lies = lie
    with pytest.raises(SyncError, match=complaint) as caught:
        Publisher(tmp_path, client, portal).publish(FakeRoles())
    assert hashlib.sha256(b"weights").hexdigest() in str(caught.value)
