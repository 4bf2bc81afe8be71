"""The adapter routes, status and the error shape, as their clients see them."""

import asyncio
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save

from inference_server import service as service_module
from inference_server.adapters import versions
from inference_server.settings import Settings
from inference_server.wire.adapters.infos import AdapterInfo, AdapterList
from inference_server.wire.errors import ErrorResponse
from inference_server.wire.schemas import ServerStatus
from tests.contract.client import Client, Restart, adapter_config, adapter_weights, tidied
from tests.contract.fake_engine import FakeEngine


async def versions_of(client: Client) -> tuple[int | None, list[int]]:
    body = AdapterList.model_validate((await client.get("/v1/adapters")).json())
    return body.active_version, [adapter.version for adapter in body.adapters]


async def test_an_upload_is_verified_loaded_and_activated(
    client: Client, engine: FakeEngine
) -> None:
    weights = save(adapter_weights())
    response = await client.put_adapter(12, weights=weights)
    assert response.status_code == 201
    info = AdapterInfo.model_validate(response.json())
    assert (info.version, info.name, info.rank, info.active) == (12, "policy-000012", 4, True)
    assert info.sha256 == hashlib.sha256(weights).hexdigest()
    assert (info.size_bytes, info.num_leases) == (len(weights), 0)
    (adapter,) = engine.loaded.values()
    assert engine.served == {"policy-000012": adapter, "policy": adapter}
    assert (adapter.path / "adapter_model.safetensors").read_bytes() == weights
    assert json.loads((adapter.path / "adapter_config.json").read_bytes()) == adapter_config()
    assert (await client.get("/v1/adapters/12")).json() == response.json()


async def test_an_upload_with_activate_false_does_not_move_the_alias(
    client: Client, engine: FakeEngine
) -> None:
    await client.put_adapter(1)
    response = await client.put_adapter(2, params={"activate": "false"})
    assert response.status_code == 201
    assert response.json()["active"] is False
    assert await versions_of(client) == (1, [1, 2])
    assert engine.served["policy"].name == "policy-000001"


async def test_the_alias_moves_by_activation_and_back(client: Client, engine: FakeEngine) -> None:
    for version in (1, 2):
        await client.put_adapter(version)
    assert engine.served["policy"].name == "policy-000002"
    response = await client.post("/v1/adapters/1/activate")
    assert (response.status_code, response.json()["active"]) == (200, True)
    assert engine.served["policy"].name == "policy-000001"
    assert (await client.arms()).json()["policy_version"] == 1


async def test_the_same_digest_again_is_no_upload(client: Client, engine: FakeEngine) -> None:
    first = await client.put_adapter(1)
    await client.put_adapter(2)
    again = await client.put_adapter(
        1,
        config=adapter_config(target_modules=["down_proj", "q_proj"]),
        params={"activate": "false"},
    )
    assert again.status_code == 200
    assert again.json() == {**first.json(), "active": False}
    assert len(engine.all_lora_ids) == 2
    reactivated = await client.put_adapter(1)
    assert (reactivated.status_code, reactivated.json()["active"]) == (200, True)


async def test_a_version_is_never_another_adapter_not_even_when_it_is_gone(
    client: Client, engine: FakeEngine
) -> None:
    await client.put_adapter(1)
    other = await client.put_adapter(1, weights=adapter_weights(seed=1))
    assert (other.status_code, other.json()["error"]["param"]) == (409, "sha256")
    other = await client.put_adapter(1, config=adapter_config(lora_alpha=16))
    assert (other.status_code, other.json()["error"]["param"]) == (409, "adapter_config.json")
    await client.put_adapter(2)
    assert (await client.delete("/v1/adapters/1")).status_code == 204
    assert (await client.put_adapter(1, weights=adapter_weights(seed=1))).status_code == 409
    assert (await client.put_adapter(1)).status_code == 201
    assert engine.all_lora_ids == [1, 2, 3]


async def test_the_next_version_is_above_retired_and_deleted_ones_too(client: Client) -> None:
    async def next_version() -> int:
        status = await client.get("/v1/status")
        return ServerStatus.model_validate(status.json()).next_version

    assert await next_version() == 0
    await client.put_adapter(0)
    await client.put_adapter(7, params={"activate": "false"})
    await client.delete("/v1/adapters/7")
    assert await versions_of(client) == (0, [0])
    assert await next_version() == 8


async def test_files_of_retired_versions_stay_until_the_engine_cannot_need_them(
    client: Client,
    restart: Restart,
    state_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for version in (1, 2):
        await client.put_adapter(version, params={"activate": "false"})
    no_aborts = asyncio.Event()

    async def until(time_s: float) -> None:
        await no_aborts.wait()

    monkeypatch.setattr(versions, "_until", until)
    files = [state_dir / f"policy-00000{version}" for version in (1, 2)]
    # Neither another deletion nor an upload removes the files earlier.
    for version in (1, 2):
        assert (await client.delete(f"/v1/adapters/{version}")).status_code == 204
    upload = asyncio.create_task(client.put_adapter(3))
    await asyncio.wait([upload], timeout=0.1)
    assert await versions_of(client) == (None, [])
    assert all(path.exists() for path in files)
    # If the server is stopped now, it does not serve them again after a restart.
    shutil.copytree(state_dir, tmp_path / "stopped")
    stopped, _ = await restart(state_dir=tmp_path / "stopped")
    assert await versions_of(stopped) == (None, [])
    assert not list((tmp_path / "stopped").glob("policy-*"))
    no_aborts.set()
    assert (await upload).status_code == 201
    assert await versions_of(client) == (3, [3])
    assert not any(path.exists() for path in files)


async def test_an_upload_while_files_are_waited_for_makes_room_for_the_next_one_too(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_aborts, num_waits = asyncio.Event(), 0

    async def until(time_s: float) -> None:
        nonlocal num_waits
        num_waits += 1
        if num_waits == 1:
            await no_aborts.wait()

    monkeypatch.setattr(versions, "_until", until)
    uploads = []
    # The third retires the first and waits for its files; meanwhile the fourth fills its place.
    for version, loaded in ((1, [1]), (2, [1, 2]), (3, [2, 3]), (4, [2, 3, 4])):
        uploads.append(asyncio.create_task(client.put_adapter(version)))
        while (await versions_of(client))[1] != loaded:  # noqa: ASYNC110
            await asyncio.sleep(0)
    no_aborts.set()
    assert [response.status_code for response in await asyncio.gather(*uploads)] == [201] * 4
    assert await versions_of(client) == (4, [3, 4])


async def test_a_deleted_version_does_not_come_back_with_a_restart(
    client: Client, restart: Restart, state_dir: Path
) -> None:
    for version in (1, 2):
        await client.put_adapter(version)
    assert (await client.delete("/v1/adapters/1")).status_code == 204
    await tidied()
    assert not (state_dir / "policy-000001").exists()
    restarted, _ = await restart()
    assert await versions_of(restarted) == (2, [2])


async def test_delete(client: Client, engine: FakeEngine) -> None:
    await client.put_adapter(1)
    await client.put_adapter(2)
    response = await client.delete("/v1/adapters/2")
    assert response.status_code == 409
    assert "active" in response.json()["error"]["message"]
    engine.open.clear()
    group = asyncio.create_task(client.arms(policy=1))
    await engine.reaches(8, "policy-000001")
    response = await client.delete("/v1/adapters/1")
    assert response.status_code == 409
    assert "8 requests in flight" in response.json()["error"]["message"]
    engine.open.set()
    assert (await group).status_code == 200
    assert (await client.delete("/v1/adapters/1")).status_code == 204
    assert await versions_of(client) == (2, [2])
    assert "policy-000001" not in engine.served
    for request in (
        client.get("/v1/adapters/1"),
        client.delete("/v1/adapters/1"),
        client.post("/v1/adapters/1/activate"),
    ):
        response = await request
        assert response.status_code == 404
        assert response.json()["error"]["message"] == "version 1 is not loaded"


async def test_old_versions_retire_and_files_stay_bounded(
    client: Client, engine: FakeEngine, state_dir: Path
) -> None:
    for version in range(1, 30):
        assert (await client.put_adapter(version)).status_code == 201
        assert len(list(state_dir.glob("policy-*"))) <= 3
    assert await versions_of(client) == (29, [28, 29])
    assert sorted(adapter.name for adapter in engine.loaded.values()) == sorted(
        name for name in engine.served if name != "policy"
    )
    assert not list(state_dir.glob(".incoming-*"))


async def test_the_active_version_never_retires(client: Client) -> None:
    await client.put_adapter(1)
    for version in range(2, 8):
        await client.put_adapter(version, params={"activate": "false"})
    assert await versions_of(client) == (1, [1, 7])


async def test_leased_versions_stay_until_they_are_free(client: Client, engine: FakeEngine) -> None:
    await client.put_adapter(1)
    engine.open.clear()
    group = asyncio.create_task(client.arms())
    await engine.reaches(8, "policy-000001")
    for version in (2, 3, 4, 5):
        assert (await client.put_adapter(version)).status_code == 201
    assert await versions_of(client) == (5, [1, 5])
    engine.open.set()
    assert (await group).json()["policy_version"] == 1
    await client.put_adapter(6)
    assert await versions_of(client) == (6, [5, 6])


async def test_requests_of_vllms_own_routes_are_leases_too(
    client: Client, engine: FakeEngine
) -> None:
    await client.put_adapter(1)
    engine.in_flight["policy-000001"] = 1
    for version in (2, 3, 4, 5):
        await client.put_adapter(version)
    assert await versions_of(client) == (5, [1, 5])
    assert (await client.get("/v1/adapters/1")).json()["num_leases"] == 1
    assert (await client.delete("/v1/adapters/1")).status_code == 409


async def test_an_upload_waits_its_turn_when_every_version_is_in_use(
    client: Client, engine: FakeEngine
) -> None:
    for version in (1, 2, 3):
        await client.put_adapter(version)
        engine.in_flight[f"policy-{version:06d}"] = 1
    response = await client.put_adapter(4)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
    assert await versions_of(client) == (3, [1, 2, 3])
    engine.in_flight.clear()
    assert (await client.put_adapter(5)).status_code == 201
    assert await versions_of(client) == (5, [3, 5])


async def test_uploads_at_the_same_time_are_one_after_the_other(client: Client) -> None:
    responses = await asyncio.gather(*(client.put_adapter(1) for _ in range(4)))
    assert sorted(response.status_code for response in responses) == [200, 200, 200, 201]


@pytest.mark.parametrize("version", ["-1", "x", "1.5", "1000000000", "..%2f1"])
async def test_a_version_is_a_number(client: Client, version: str) -> None:
    response = await client.put(f"/v1/adapters/{version}")
    assert response.status_code in (400, 404)
    assert ErrorResponse.model_validate(response.json()).error.message


@pytest.mark.parametrize(
    "spelling",
    [
        *("1_0", "+10", "%2010", "10%20", "10.0", "1e1", "0xa", "%D9%A1%D9%A0"),
        *("1%30_", "true", "1" + "0" * 30, "9" * 5000),
    ],
)
async def test_a_version_in_an_address_is_decimal_digits_and_nothing_else(
    client: Client, spelling: str
) -> None:
    await client.put_adapter(10)
    address = f"/v1/adapters/{spelling}"
    for method, path in (("GET", address), ("POST", f"{address}/activate"), ("DELETE", address)):
        response = await client.request(method, path)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "version")
    assert await versions_of(client) == (10, [10])
    assert (await client.get("/v1/adapters/%31%30")).status_code == 200


async def test_status(client: Client, engine: FakeEngine, settings: Settings) -> None:
    await client.put_adapter(3)
    status = ServerStatus.model_validate((await client.get("/v1/status")).json())
    assert len(status.boot_id) == 32
    assert (status.base_model, status.base_dtype) == ("fake/base", "float16")
    assert (status.active_version, [v.version for v in status.versions]) == (3, [3])
    assert status.groups_in_flight == 0
    assert status.next_version == 4
    assert status.limits.max_model_len_tokens == 600
    assert status.limits.max_lora_rank == 8
    assert status.limits.max_questions == settings.max_questions
    assert (await client.arms()).json()["boot_id"] == status.boot_id


async def test_status_of_an_engine_that_does_not_answer(
    client: Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "ENGINE_ANSWERS_WITHIN_S", 0.01)
    engine.hangs = True
    response = await client.get("/v1/status")
    assert (response.status_code, response.json()["error"]["type"]) == (503, "engine")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [("GET", "/nowhere", 404, "not_found"), ("POST", "/v1/status", 405, "invalid_request")],
)
async def test_paths_that_no_route_knows_have_the_error_shape(
    client: Client, method: str, path: str, status: int, kind: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert ErrorResponse.model_validate(response.json()).error.type == kind
