"""The adapter routes, status, the key and the error shape, as their clients see them."""

import asyncio
import base64
import hashlib
import json
import re

import httpx
import pytest
import torch
from fastapi import FastAPI
from pydantic import SecretStr
from safetensors.torch import save

from inference_server import service as service_module
from inference_server.http.routes import attach_routes
from inference_server.wire.schemas import AdapterInfo, AdapterList, ErrorResponse, ServerStatus


def q_proj(side: str) -> str:
    return f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight"


async def versions_of(client) -> tuple[int | None, list[int]]:
    body = AdapterList.model_validate((await client.get("/v1/adapters")).json())
    return body.active_version, [adapter.version for adapter in body.adapters]


async def test_an_upload_is_verified_loaded_and_activated(client, engine, make):
    weights = save(make.weights())
    response = await client.put_adapter(12, weights=weights)
    assert response.status_code == 201
    info = AdapterInfo.model_validate(response.json())
    assert (info.version, info.name, info.rank, info.active) == (12, "policy-000012", 4, True)
    assert info.sha256 == hashlib.sha256(weights).hexdigest()
    assert (info.size_bytes, info.num_leases) == (len(weights), 0)
    (adapter,) = engine.loaded.values()
    assert engine.served == {"policy-000012": adapter, "policy": adapter}
    assert (adapter.path / "adapter_model.safetensors").read_bytes() == weights
    assert json.loads((adapter.path / "adapter_config.json").read_bytes()) == make.config()
    assert (await client.get("/v1/adapters/12")).json() == response.json()


async def test_an_upload_with_activate_false_does_not_move_the_alias(client, engine):
    await client.put_adapter(1)
    response = await client.put_adapter(2, params={"activate": "false"})
    assert response.status_code == 201
    assert response.json()["active"] is False
    assert await versions_of(client) == (1, [1, 2])
    assert engine.served["policy"].name == "policy-000001"


async def test_the_alias_moves_by_activation_and_back(client, engine):
    for version in (1, 2):
        await client.put_adapter(version)
    assert engine.served["policy"].name == "policy-000002"
    response = await client.post("/v1/adapters/1/activate")
    assert (response.status_code, response.json()["active"]) == (200, True)
    assert engine.served["policy"].name == "policy-000001"
    assert (await client.arms()).json()["policy_version"] == 1


async def test_the_same_digest_again_is_no_upload(client, engine, make):
    first = await client.put_adapter(1)
    await client.put_adapter(2)
    again = await client.put_adapter(
        1, config=make.config(target_modules=["down_proj", "q_proj"]), params={"activate": "false"}
    )
    assert again.status_code == 200
    assert again.json() == {**first.json(), "active": False}
    assert len(engine.all_lora_ids) == 2
    reactivated = await client.put_adapter(1)
    assert (reactivated.status_code, reactivated.json()["active"]) == (200, True)


async def test_a_version_is_never_another_adapter_not_even_when_it_is_gone(client, engine, make):
    await client.put_adapter(1)
    other = await client.put_adapter(1, weights=make.weights(seed=1))
    assert (other.status_code, other.json()["error"]["param"]) == (409, "sha256")
    other = await client.put_adapter(1, config=make.config(lora_alpha=16))
    assert (other.status_code, other.json()["error"]["param"]) == (409, "adapter_config.json")
    await client.put_adapter(2)
    assert (await client.delete("/v1/adapters/1")).status_code == 204
    assert (await client.put_adapter(1, weights=make.weights(seed=1))).status_code == 409
    assert (await client.put_adapter(1)).status_code == 201
    assert engine.all_lora_ids == [1, 2, 3]


async def test_the_next_version_is_above_retired_and_deleted_ones_too(client):
    async def next_version() -> int:
        return (await client.get("/v1/status")).json()["next_version"]

    assert await next_version() == 0
    await client.put_adapter(0)
    await client.put_adapter(7, params={"activate": "false"})
    await client.delete("/v1/adapters/7")
    assert await versions_of(client) == (0, [0])
    assert await next_version() == 8


async def test_delete(client, engine):
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


async def test_old_versions_retire_and_files_stay_bounded(client, engine, settings):
    for version in range(1, 30):
        assert (await client.put_adapter(version)).status_code == 201
        assert len(list(settings.state_dir.glob("policy-*"))) <= 3
    assert await versions_of(client) == (29, [28, 29])
    assert sorted(adapter.name for adapter in engine.loaded.values()) == sorted(
        name for name in engine.served if name != "policy"
    )
    assert not list(settings.state_dir.glob(".incoming-*"))


async def test_the_active_version_never_retires(client):
    await client.put_adapter(1)
    for version in range(2, 8):
        await client.put_adapter(version, params={"activate": "false"})
    assert await versions_of(client) == (1, [1, 7])


async def test_leased_versions_stay_until_they_are_free(client, engine):
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


async def test_requests_of_vllms_own_routes_are_leases_too(client, engine):
    await client.put_adapter(1)
    engine.in_flight["policy-000001"] = 1
    for version in (2, 3, 4, 5):
        await client.put_adapter(version)
    assert await versions_of(client) == (5, [1, 5])
    assert (await client.get("/v1/adapters/1")).json()["num_leases"] == 1
    assert (await client.delete("/v1/adapters/1")).status_code == 409


async def test_an_upload_waits_its_turn_when_every_version_is_in_use(client, engine):
    for version in (1, 2, 3):
        await client.put_adapter(version)
        engine.in_flight[f"policy-{version:06d}"] = 1
    response = await client.put_adapter(4)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
    assert await versions_of(client) == (3, [1, 2, 3])
    engine.in_flight.clear()
    assert (await client.put_adapter(5)).status_code == 201
    assert await versions_of(client) == (5, [3, 5])


async def test_uploads_at_the_same_time_are_one_after_the_other(client):
    responses = await asyncio.gather(*(client.put_adapter(1) for _ in range(4)))
    assert sorted(response.status_code for response in responses) == [200, 200, 200, 201]


def tampered(make, **tensors):
    return {**make.weights(), **tensors}


BAD_UPLOADS = {
    "another digest": (lambda make: {"sha256": "0" * 64}, "sha256", "has digest"),
    "no digest": (lambda make: {"sha256": "abc"}, "sha256", "SHA-256"),
    "config is not json": (lambda make: {"config": b"{"}, "adapter_config.json", "JSON"),
    "config is a list": (lambda make: {"config": b"[]"}, "adapter_config.json", "object"),
    "no rank": (lambda make: {"config": b'{"peft_type": "LORA"}'}, "adapter_config.json", "r: "),
    "another method": (
        lambda make: {"config": make.config(peft_type="IA3")},
        "adapter_config.json",
        "peft_type",
    ),
    "rank over the limit": (
        lambda make: {"config": make.config(r=16), "weights": make.weights(rank=16)},
        "adapter_config.json",
        "--max-lora-rank 8",
    ),
    "DoRA": (
        lambda make: {"config": make.config(use_dora=True)},
        "adapter_config.json",
        "use_dora",
    ),
    "modules_to_save": (
        lambda make: {"config": make.config(modules_to_save=["lm_head"])},
        "adapter_config.json",
        "modules_to_save",
    ),
    "bias": (lambda make: {"config": make.config(bias="all")}, "adapter_config.json", "bias"),
    "lora bias": (
        lambda make: {"config": make.config(lora_bias=True)},
        "adapter_config.json",
        "lora_bias",
    ),
    "rank pattern": (
        lambda make: {"config": make.config(rank_pattern={"q_proj": 64})},
        "adapter_config.json",
        "rank_pattern",
    ),
    "alpha pattern": (
        lambda make: {"config": make.config(alpha_pattern={"(a+)+$": 64})},
        "adapter_config.json",
        "alpha_pattern",
    ),
    "alpha not finite": (
        lambda make: {"config": json.dumps(make.config(lora_alpha=float("inf"))).encode()},
        "adapter_config.json",
        "lora_alpha",
    ),
    "config too large": (
        lambda make: {"config": b" " * (2**20 + 1)},
        "adapter_config.json",
        "more than",
    ),
    "not safetensors": (
        lambda make: {"weights": b"PK\x03\x04 a pickle"},
        "adapter_model.safetensors",
        "not a safetensors file",
    ),
    "truncated": (
        lambda make: {"weights": save(make.weights())[:-8]},
        "adapter_model.safetensors",
        "not a safetensors file",
    ),
    "empty file": (
        lambda make: {"weights": b""},
        "adapter_model.safetensors",
        "not a safetensors file",
    ),
    "no tensors": (lambda make: {"weights": save({})}, "adapter_model.safetensors", "no tensors"),
    "another rank than configured": (
        lambda make: {"weights": make.weights(rank=2)},
        "adapter_model.safetensors",
        "has shape [2, 32], not [4, 32]",
    ),
    "shapes of another base": (
        lambda make: {"weights": tampered(make, **{q_proj("B"): torch.ones(17, 4)})},
        "adapter_model.safetensors",
        "shape [17, 4], not [16, 4]",
    ),
    "a vector": (
        lambda make: {"weights": tampered(make, **{q_proj("A"): torch.ones(4)})},
        "adapter_model.safetensors",
        "shape [4]",
    ),
    "half a pair": (
        lambda make: {"weights": {k: v for k, v in make.weights().items() if k != q_proj("B")}},
        "adapter_model.safetensors",
        "lora_B is missing",
    ),
    "unknown module": (
        lambda make: {
            "weights": tampered(
                make, **{q_proj("A").replace("q_proj", "c_attn"): torch.ones(4, 16)}
            )
        },
        "adapter_model.safetensors",
        "no linear layer",
    ),
    "value head": (
        lambda make: {"weights": tampered(make, **{"v_head.weight": torch.ones(1, 16)})},
        "adapter_model.safetensors",
        "not a LoRA tensor",
    ),
    "DoRA magnitudes": (
        lambda make: {
            "weights": tampered(
                make,
                **{q_proj("A").replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(16)},
            )
        },
        "adapter_model.safetensors",
        "not a LoRA tensor",
    ),
    "NaN": (
        lambda make: {"weights": tampered(make, **{q_proj("A"): torch.full((4, 16), torch.nan)})},
        "adapter_model.safetensors",
        "not finite",
    ),
    "finite here and infinite in the engine": (
        lambda make: {"weights": tampered(make, **{q_proj("A"): torch.full((4, 16), 1e6)})},
        "adapter_model.safetensors",
        "not finite in float16",
    ),
    "integers": (
        lambda make: {
            "weights": tampered(make, **{q_proj("A"): torch.ones(4, 16, dtype=torch.int8)})
        },
        "adapter_model.safetensors",
        "dtype I8",
    ),
}


@pytest.mark.parametrize("name", BAD_UPLOADS)
async def test_a_bad_upload_is_named_and_changes_nothing(client, engine, settings, make, name):
    change, param, words = BAD_UPLOADS[name]
    await client.put_adapter(1)
    before = await client.get("/v1/adapters"), dict(engine.served), dict(engine.loaded)
    response = await client.put_adapter(2, **change(make))
    error = ErrorResponse.model_validate(response.json()).error
    assert response.status_code == (413 if "too large" in name else 400)
    assert error.param == param
    assert words in error.message
    assert (await client.get("/v1/adapters")).json() == before[0].json()
    assert (engine.served, engine.loaded) == before[1:]
    assert [path.name for path in settings.state_dir.iterdir() if path.is_dir()] == [
        "policy-000001"
    ]
    assert (await client.put_adapter(2)).status_code == 201


async def test_what_the_engine_refuses_changes_nothing(client, engine, settings):
    engine.reject = "no such thing as this adapter"
    response = await client.put_adapter(1)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_adapter"
    assert engine.reject in response.json()["error"]["message"]
    assert not list(settings.state_dir.iterdir())
    engine.reject = None
    assert (await client.put_adapter(1)).status_code == 201


CONFIG_PART = ("adapter_config.json", b"{}")
WEIGHTS_PART = ("adapter_model.safetensors", b"")


@pytest.mark.parametrize(
    ("files", "data", "param"),
    [
        ([CONFIG_PART], {"sha256": "0" * 64}, "adapter_model.safetensors"),
        ([WEIGHTS_PART], {"sha256": "0" * 64}, "adapter_config.json"),
        ([CONFIG_PART, WEIGHTS_PART], {}, "sha256"),
        ([CONFIG_PART, WEIGHTS_PART, ("more", b"")], {"sha256": "0" * 64}, None),
        ([CONFIG_PART], {"adapter_model.safetensors": "text"}, "adapter_model.safetensors"),
    ],
)
async def test_an_upload_needs_its_parts(client, files, data, param):
    response = await client.put("/v1/adapters/1", files=files, data=data)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_an_upload_that_is_not_multipart_is_refused(client):
    response = await client.put("/v1/adapters/1", content=b"x")
    assert response.status_code == 400
    assert "multipart/form-data" in response.json()["error"]["message"]
    headers = {"Content-Type": "multipart/form-data"}
    response = await client.put("/v1/adapters/1", content=b"x", headers=headers)
    assert response.status_code == 400
    assert "malformed" in response.json()["error"]["message"]


async def test_an_upload_that_is_too_large_is_refused_early_declared_or_not(client, settings):
    large = bytes(settings.max_adapter_bytes + 2**21)
    response = await client.put_adapter(1, weights=large)
    assert response.status_code == 413

    async def chunks():
        for start in range(0, len(large), 2**16):
            yield large[start : start + 2**16]

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    preamble = b'--b\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n'

    async def body():
        yield preamble
        async for chunk in chunks():
            yield chunk

    response = await client.put("/v1/adapters/1", content=body(), headers=headers)
    assert response.status_code == 413
    # Between the whole body's limit and the weights' own.
    response = await client.put_adapter(1, weights=bytes(settings.max_adapter_bytes + 1))
    assert response.status_code == 413
    assert not list(settings.state_dir.iterdir())


@pytest.mark.parametrize("version", ["-1", "x", "1.5", "1000000000", "..%2f1"])
async def test_a_version_is_a_number(client, version):
    response = await client.put(f"/v1/adapters/{version}")
    assert response.status_code in (400, 404)
    assert ErrorResponse.model_validate(response.json()).error.message


async def test_status(client, engine, settings):
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


async def test_status_of_an_engine_that_does_not_answer(client, engine, monkeypatch):
    monkeypatch.setattr(service_module, "ENGINE_ANSWERS_WITHIN_S", 0.01)
    engine.hangs = True
    response = await client.get("/v1/status")
    assert (response.status_code, response.json()["error"]["type"]) == (503, "engine")


def _basic(password: str) -> str:
    return f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("path", "site", "status"),
    [
        ("/", None, 200),
        ("/", "cross-site", 200),  # a link to the page; it changes nothing
        ("/metrics", "same-origin", 200),
        ("/metrics", None, 401),
        ("/metrics", "none", 401),
        ("/metrics", "same-site", 401),
        ("/metrics", "cross-site", 401),
    ],
)
async def test_a_password_counts_only_for_the_page_and_what_it_asks(settings, path, site, status):
    """Browsers send it along with whatever another page asks of this server."""
    app = FastAPI()

    @app.get("/metrics")
    def metrics() -> None: ...

    attach_routes(app, settings.model_copy(update={"api_key": SecretStr("s3cret")}))
    headers = {"Authorization": _basic("s3cret")} | (
        {} if site is None else {"Sec-Fetch-Site": site}
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        assert (await client.get(path, headers=headers)).status_code == status


async def test_the_playground_loads_nothing_from_elsewhere(client):
    response = await client.get("/")
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert not re.findall(r"(?:src|href)=|https?://", response.text)


async def test_every_route_but_health_asks_for_the_key(settings):
    app = FastAPI()

    @app.get("/health")
    def health() -> None: ...

    @app.get("/metrics")
    def metrics() -> None: ...

    attach_routes(app, settings.model_copy(update={"api_key": SecretStr("s3cret")}))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        assert (await client.get("/health")).status_code == 200
        calls = [
            (method, route.path.replace("{version}", "1"))
            for route in app.routes
            if route.path != "/health"
            for method in route.methods
        ]
        assert ("POST", "/v1/arms/generate") in calls
        assert ("GET", "/metrics") in calls
        assert ("GET", "/openapi.json") in calls
        for method, path in [*calls, ("GET", "/nowhere"), ("GET", "/health/")]:
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Basic s3cret"},
                {"Authorization": _basic("wrong"), "Sec-Fetch-Site": "same-origin"},
                {"Authorization": "s3cret"},
                {"Authorization": "Bearer s3cret2"},
                {"X-Api-Key": "s3cret"},
            ):
                response = await client.request(method, path, headers=headers)
                assert response.status_code == 401, (method, path)
                scheme = response.headers["WWW-Authenticate"].partition(" ")[0]
                assert scheme == ("Basic" if path == "/" else "Bearer")
                if method != "HEAD":
                    error = ErrorResponse.model_validate(response.json()).error
                    assert (error.type, error.param) == ("unauthorized", "Authorization")
        response = await client.get("/metrics", headers={"Authorization": "Bearer s3cret"})
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [("GET", "/nowhere", 404, "not_found"), ("POST", "/v1/status", 405, "invalid_request")],
)
async def test_paths_that_no_route_knows_have_the_error_shape(client, method, path, status, kind):
    response = await client.request(method, path)
    assert response.status_code == status
    assert ErrorResponse.model_validate(response.json()).error.type == kind
