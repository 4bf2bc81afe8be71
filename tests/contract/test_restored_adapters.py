"""Adapters that survive a restart, and adapters loaded by path from a volume."""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save
from structlog.testing import capture_logs

from inference_server.adapters import storage
from inference_server.engine import EngineAdapter
from inference_server.wire.digests import sha256_of_file
from inference_server.wire.settings.errors import SettingsError
from tests.contract.client import Client, Restart, adapter_config, adapter_weights
from tests.contract.fake_engine import FakeEngine


async def test_versions_and_the_active_one_survive_a_restart(
    client: Client, restart: Restart
) -> None:
    for version in (3, 5, 8):
        assert (
            await client.put_adapter(version, weights=adapter_weights(version))
        ).status_code == 201
    await client.post("/v1/adapters/5/activate")
    before = (await client.get("/v1/status")).json()
    same_arms = (await client.arms(seed=1)).json()["groups"]

    restarted, engine = await restart()
    after = (await restarted.get("/v1/status")).json()
    assert after["boot_id"] != before["boot_id"]
    assert after["versions"] == before["versions"]
    assert (after["active_version"], after["next_version"]) == (5, 9)
    assert sorted(adapter.name for adapter in engine.loaded.values()) == [
        "policy-000005",
        "policy-000008",
    ]
    assert engine.served["policy"].name == "policy-000005"
    assert (await restarted.arms(seed=1)).json()["groups"] == same_arms
    # Still immutable: the same adapter is accepted as known, another one is refused.
    assert (await restarted.put_adapter(8, weights=adapter_weights(8))).status_code == 200
    assert (await restarted.put_adapter(5, weights=adapter_weights(9))).status_code == 409


async def test_a_number_once_used_is_not_the_next_one_after_a_restart(
    client: Client, restart: Restart
) -> None:
    for version in (1, 2):
        await client.put_adapter(version, weights=adapter_weights(version))
    await client.post("/v1/adapters/1/activate")
    assert (await client.delete("/v1/adapters/2")).status_code == 204
    restarted, _ = await restart()
    assert (await restarted.get("/v1/status")).json()["next_version"] == 3


async def test_fewer_versions_than_before_are_the_newest_and_the_active_one(
    restart: Restart, state_dir: Path
) -> None:
    client, _ = await restart(FakeEngine(max_loaded_adapters=4), max_loaded_versions=4)
    for version in (1, 2, 3):
        await client.put_adapter(version, weights=adapter_weights(version))
    await client.post("/v1/adapters/1/activate")
    restarted, _ = await restart(max_loaded_versions=3)
    status = (await restarted.get("/v1/status")).json()
    assert [version["version"] for version in status["versions"]] == [1, 3]
    assert status["active_version"] == 1
    assert sorted(path.name for path in state_dir.glob("policy-*")) == [
        "policy-000001",
        "policy-000003",
    ]


def _append(file: Path, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(-len(data), os.SEEK_END)
        opened.write(data)


def _replace_by_link(path: Path) -> None:
    moved = path.rename(path.with_name(f"{path.name}-moved"))
    path.symlink_to(moved)


def _replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _replace_by_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _refuse_again(folder: Path) -> None:
    (folder / CONFIG).unlink()
    (folder.parent / f"refused-{folder.name}").touch()


def _replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
DIGESTS = f"{WEIGHTS}.sha256"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda folder: _append(folder / WEIGHTS, b"\x01"),
    "config": lambda folder: (folder / CONFIG).write_text("{"),
    "another alpha": lambda folder: (folder / CONFIG).write_text(
        json.dumps(adapter_config(lora_alpha=800))
    ),
    "no digest": lambda folder: (folder / DIGESTS).unlink(),
    "no digest of the configuration": lambda folder: (folder / DIGESTS).write_text(
        (folder / DIGESTS).read_text().splitlines()[0]
    ),
    "empty digests": lambda folder: (folder / DIGESTS).write_text(""),
    "digests that are no text": lambda folder: (folder / DIGESTS).write_bytes(b"\xff\xfe"),
    "digests in a folder": lambda folder: _replace_by_folder(folder / DIGESTS),
    "config is a pipe": lambda folder: _replace_by_pipe(folder / CONFIG),
    "weights are a device": lambda folder: _replace_by_device(folder / WEIGHTS),
    "a link": _replace_by_link,
    "a file": _replace_by_file,
    "set aside before": _refuse_again,
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_is_damaged_is_set_aside(
    client: Client, restart: Restart, state_dir: Path, damage: str
) -> None:
    for version in (1, 2):
        await client.put_adapter(version, weights=adapter_weights(version))
    DAMAGES[damage](state_dir / "policy-000002")
    restarted, _ = await restart()
    status = (await restarted.get("/v1/status")).json()
    assert [version["version"] for version in status["versions"]] == [1]
    assert (status["active_version"], status["next_version"]) == (None, 3)
    assert os.path.lexists(state_dir / "refused-policy-000002")
    assert (await restarted.put_adapter(2, weights=adapter_weights(2))).status_code == 201


async def test_what_cannot_be_read_stays_and_is_restored_once_it_can(
    client: Client, restart: Restart, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        await client.put_adapter(version, weights=adapter_weights(version))

    def refuse(path: Path) -> str:
        if path.parent.name == "policy-000002":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return sha256_of_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "sha256_of_file", refuse)
        with capture_logs() as lines:
            again, _ = await restart()
    (warning,) = (line for line in lines if line["log_level"] == "warning")
    assert (warning["event"], warning["version"]) == ("adapter_unreadable", 2)
    assert "Permission denied" in warning["reason"]
    assert "policy-000002" in warning["reason"]
    assert [each["version"] for each in (await again.get("/v1/status")).json()["versions"]] == [1]
    restarted, _ = await restart()
    assert (await restarted.get("/v1/status")).json()["active_version"] == 2
    # Whoever pushes it meanwhile does not overwrite it.
    assert (await again.put_adapter(2, weights=adapter_weights(3))).status_code == 201
    assert (state_dir / "refused-policy-000002" / WEIGHTS).read_bytes() == save(adapter_weights(2))


async def test_what_cannot_be_set_aside_is_not_said_to_be(
    client: Client, restart: Restart, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.put_adapter(1)
    path = state_dir / "policy-000001"
    (path / CONFIG).write_text("{")

    def refuse(path: Path, target: Path) -> Path:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with capture_logs() as lines:
            restarted, _ = await restart()
    (warning,) = (line for line in lines if line["log_level"] == "warning")
    assert warning["event"] == "adapter_left_in_place"
    assert (warning["path"], warning["problem"]) == (str(path), "Operation not permitted")
    assert (await restarted.get("/v1/status")).json()["versions"] == []


@pytest.mark.parametrize("reason", ["engine", "first completion", "base model"])
async def test_what_cannot_be_served_again_is_set_aside(
    client: Client,
    restart: Restart,
    state_dir: Path,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for version in (1, 2):
        await client.put_adapter(version, weights=adapter_weights(version))
    engine = FakeEngine()
    load, usual = engine.load, engine.first_completion

    async def load_but_one(adapter: EngineAdapter) -> None:
        is_bad = adapter.name == "policy-000002"
        engine.reject = "no" if is_bad and reason == "engine" else None
        is_spoilt = is_bad and reason == "first completion"
        engine.first_completion = replace(usual, logprobs=[math.nan]) if is_spoilt else usual
        await load(adapter)

    monkeypatch.setattr(engine, "load", load_but_one)
    if reason == "base model":
        engine.traits = replace(engine.traits, linear_shapes={})
    restarted, engine = await restart(engine)
    status = (await restarted.get("/v1/status")).json()
    left = [] if reason == "base model" else [1]
    assert [version["version"] for version in status["versions"]] == left
    assert len(engine.loaded) == len(left)
    assert (status["active_version"], status["next_version"]) == (None, 3)
    assert (state_dir / "refused-policy-000002").is_dir()


def engine_of(fingerprint: str | None) -> FakeEngine:
    engine = FakeEngine()
    engine.traits = replace(engine.traits, base_fingerprint=fingerprint)
    return engine


async def test_versions_of_another_base_of_the_same_shapes_are_set_aside(
    client: Client, restart: Restart, state_dir: Path
) -> None:
    for version in (1, 2):
        await client.put_adapter(version, weights=adapter_weights(version))
    await client.post("/v1/adapters/2/activate")
    for num_before in range(2):
        # A second restart, on the same base, finds nothing to set aside.
        with capture_logs() as lines:
            restarted, engine = await restart(engine_of("fedcba9876543210"))
        status = (await restarted.get("/v1/status")).json()
        assert (status["versions"], engine.loaded) == ([], {})
        assert (status["active_version"], status["next_version"]) == (None, 3)
        aside = [line for line in lines if line["event"] == "adapter_set_aside"]
        assert [line["version"] for line in aside] == ([] if num_before else [1, 2])
        assert {line["reason"] for line in aside} <= {
            "it is of a base model with fingerprint 0123456789abcdef, and fake/base has fedcba9876543210"
        }
    assert (state_dir / "refused-policy-000002").is_dir()
    # What is uploaded now is of the new base.
    assert (await restarted.put_adapter(3, weights=adapter_weights(3))).status_code == 201
    restarted, _ = await restart(engine_of("fedcba9876543210"))
    assert (await restarted.get("/v1/adapters/3")).status_code == 200


async def test_what_was_set_aside_is_kept_and_can_be_put_back(
    client: Client, restart: Restart, state_dir: Path
) -> None:
    await client.put_adapter(1, weights=adapter_weights(1))
    of_first = (state_dir / "policy-000001" / WEIGHTS).read_bytes()
    restarted, _ = await restart(engine_of("fedcba9876543210"))
    await restarted.put_adapter(1, weights=adapter_weights(2))
    _, engine = await restart()
    assert engine.loaded == {}
    for name, is_first in (("refused-policy-000001", True), ("refused-policy-000001-2", False)):
        assert ((state_dir / name / WEIGHTS).read_bytes() == of_first) == is_first
    (state_dir / "refused-policy-000001").rename(state_dir / "policy-000001")
    restarted, _ = await restart()
    assert (await restarted.get("/v1/adapters/1")).status_code == 200


async def test_an_unknown_base_sets_nothing_aside(
    client: Client, restart: Restart, state_dir: Path
) -> None:
    for version in (1, 2):
        await client.put_adapter(version, weights=adapter_weights(version))
    # Files that are not on disk have no fingerprint; the one that is known stays.
    restarted, engine = await restart(engine_of(None))
    assert len(engine.loaded) == 2
    await restarted.post("/v1/adapters/2/activate")
    _, engine = await restart(engine_of("fedcba9876543210"))
    assert engine.loaded == {}


async def test_versions_from_before_the_record_of_the_base_are_restored_and_then_have_one(
    client: Client, restart: Restart, state_dir: Path
) -> None:
    await client.put_adapter(1)
    record = state_dir / "registry.json"
    record.write_bytes(b'{"active_version":1,"next_version":2}'.ljust(128))
    restarted, _ = await restart()
    assert (await restarted.get("/v1/status")).json()["active_version"] == 1
    kept = json.loads(record.read_bytes())
    assert kept == {
        "active_version": 1,
        "next_version": 2,
        "base_fingerprint": "0123456789abcdef",
    }
    assert record.stat().st_size == 128


async def test_what_an_earlier_server_accepted_and_this_one_does_not_apply_is_set_aside(
    client: Client, restart: Restart, state_dir: Path
) -> None:
    await client.put_adapter(1)
    folder = state_dir / "policy-000001"
    config = json.dumps(adapter_config(exclude_modules=["q_proj"])).encode()
    of_weights, of_config = (folder / DIGESTS).read_text().splitlines()
    kept = (folder / CONFIG).read_bytes()
    assert of_config == f"{hashlib.sha256(kept).hexdigest()}  {CONFIG}"
    (folder / CONFIG).write_bytes(config)
    (folder / DIGESTS).write_text(f"{of_weights}\n{hashlib.sha256(config).hexdigest()}  {CONFIG}\n")
    restarted, _ = await restart()
    assert (await restarted.get("/v1/status")).json()["versions"] == []
    assert (state_dir / "refused-policy-000001").is_dir()


async def test_names_that_are_no_versions_are_passed_over(
    client: Client, restart: Restart, state_dir: Path
) -> None:
    await client.put_adapter(1)
    names = [
        "policy-0000001",
        "policy-0000012",
        "policy-1",
        "policy-1000000000",
        "policy-000002.bak",
        "other",
    ]
    for name in names:
        (state_dir / name).mkdir()
    restarted, _ = await restart()
    status = (await restarted.get("/v1/status")).json()
    assert (status["active_version"], status["next_version"]) == (1, 2)
    assert all((state_dir / name).is_dir() for name in names)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 2000,
        b'{"next_version": 1' + b"0" * 30 + b"}",
        b'{"next_version": -1}',
        b'{"active_version": 1' + b"0" * 30 + b', "next_version": 2}',
    ],
)
async def test_a_record_that_cannot_be_read_costs_only_the_active_version(
    client: Client, restart: Restart, state_dir: Path, record: bytes
) -> None:
    await client.put_adapter(1)
    (state_dir / "registry.json").write_bytes(record)
    with capture_logs() as lines:
        restarted, _ = await restart()
    (warning,) = (line for line in lines if line["log_level"] == "warning")
    aside = state_dir / "refused-registry.json"
    assert warning["path"] == str(aside)
    assert "which version was active" in warning["lost"]
    assert aside.read_bytes() == record
    status = (await restarted.get("/v1/status")).json()
    assert (status["active_version"], status["next_version"]) == (None, 2)
    assert [version["version"] for version in status["versions"]] == [1]
    # A second one leaves the first where it is.
    (state_dir / "registry.json").write_bytes(b"again")
    await restart()
    assert aside.read_bytes() == record
    assert (state_dir / "refused-registry.json-2").read_bytes() == b"again"


async def test_a_record_that_cannot_be_opened_ends_the_start_and_stays(
    client: Client, restart: Restart, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be whole: its file system may be broken, or its permissions wrong."""
    await client.put_adapter(1)
    kept = (state_dir / "registry.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", _fail_to_read)
        with pytest.raises(SettingsError, match=r"registry\.json: Input/output error"):
            await restart()
    assert (state_dir / "registry.json").read_bytes() == kept
    restarted, _ = await restart()
    assert (await restarted.get("/v1/status")).json()["active_version"] == 1


def _fail_to_read(path: Path) -> bytes:
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


@pytest.fixture
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter root with one adapter; another adapter is stored next to it, outside."""
    root = tmp_path_factory.mktemp("volume")
    for folder in (root / "runs" / "policy-000001", root.parent / f"{root.name}-outside"):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps(adapter_config()))
        (folder / "adapter_model.safetensors").write_bytes(save(adapter_weights()))
    return root


def digest() -> str:
    return hashlib.sha256(save(adapter_weights())).hexdigest()


async def test_an_adapter_is_loaded_by_path_and_is_then_the_servers_own(
    restart: Restart, volume: Path
) -> None:
    client, _ = await restart(adapter_root=volume)
    body = {"path": "runs/policy-000001", "sha256": digest()}
    response = await client.put("/v1/adapters/1", json=body)
    assert response.status_code == 201, response.text
    assert response.json()["active"] is True
    # The version does not change with the files it was loaded from.
    (volume / "runs/policy-000001/adapter_model.safetensors").write_bytes(b"changed")
    again, _ = await restart(adapter_root=volume)
    assert (await again.get("/v1/adapters/1")).json()["sha256"] == digest()
    absolute = {"path": str(volume / "runs/policy-000001"), "sha256": digest()}
    response = await client.put("/v1/adapters/2", json=absolute)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "sha256")


async def test_a_path_needs_a_root_and_may_not_leave_it(
    client: Client, restart: Restart, volume: Path
) -> None:
    sha256 = digest()
    body = {"path": str(volume / "runs/policy-000001"), "sha256": sha256}
    response = await client.put("/v1/adapters/1", json=body)
    assert (response.status_code, response.json()["error"]["type"]) == (403, "forbidden")
    rooted, engine = await restart(adapter_root=volume)
    outside = volume.parent / f"{volume.name}-outside"
    (volume / "link").symlink_to(outside)
    (volume / "files").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (volume / "files" / name).symlink_to(outside / name)
    (volume / "loop").symlink_to("loop")
    (volume / "loops").mkdir()
    (volume / "loops/adapter_config.json").symlink_to("adapter_config.json")
    (volume / "pipe").mkdir()
    (volume / "pipe/adapter_config.json").write_text("{}")
    os.mkfifo(volume / "pipe/adapter_model.safetensors")
    for path, status in (
        (f"../{volume.name}-outside", 403),
        (str(outside), 403),
        ("runs/../../" + outside.name, 403),
        ("link", 403),
        ("files", 403),
        ("/", 403),
        ("loop", 400),
        ("loops", 400),
        ("pipe", 400),
        ("runs", 400),
        ("nowhere", 400),
        ("x" * 4000, 400),
        ("nul\0", 400),
    ):
        response = await rooted.put("/v1/adapters/1", json={"path": path, "sha256": sha256})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (status, "path"), path
    assert not engine.loaded


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"path": "runs"}, "sha256"),
        ({"sha256": "0" * 64}, "path"),
        ({"path": "runs", "sha256": "0"}, "sha256"),
        ({"path": "runs", "sha256": "0" * 64, "name": "x"}, "name"),
        ([], None),
    ],
)
async def test_a_path_that_is_malformed_names_the_field(
    restart: Restart, volume: Path, body: dict[str, Any], param: str
) -> None:
    client, _ = await restart(adapter_root=volume)
    response = await client.put("/v1/adapters/1", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
