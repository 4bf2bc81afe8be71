"""Uploads that the server refuses: each error names the part at fault, and nothing changes."""

import errno
import json
import math
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save
from starlette import formparsers

from inference_server.settings import Settings
from inference_server.wire.errors import ErrorResponse
from inference_server.wire.schemas import FinishReason
from tests.contract.client import Client, adapter_config, adapter_weights
from tests.contract.fake_engine import FakeEngine


def q_proj(side: str) -> str:
    return f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight"


def tampered(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**adapter_weights(), **tensors}


BAD_UPLOADS: dict[str, tuple[dict[str, Any], str, str]] = {
    "another digest": ({"sha256": "0" * 64}, "sha256", "has digest"),
    "no digest": ({"sha256": "abc"}, "sha256", "SHA-256"),
    "config is not json": ({"config": b"{"}, "adapter_config.json", "JSON"),
    "config is a list": ({"config": b"[]"}, "adapter_config.json", "object"),
    "no rank": ({"config": b'{"peft_type": "LORA"}'}, "adapter_config.json", "r: "),
    "another method": (
        {"config": adapter_config(peft_type="IA3")},
        "adapter_config.json",
        "peft_type",
    ),
    "rank over the limit": (
        {"config": adapter_config(r=16), "weights": adapter_weights(rank=16)},
        "adapter_config.json",
        "--max-lora-rank 8",
    ),
    "DoRA": (
        {"config": adapter_config(use_dora=True)},
        "adapter_config.json",
        "use_dora",
    ),
    "modules_to_save": (
        {"config": adapter_config(modules_to_save=["lm_head"])},
        "adapter_config.json",
        "modules_to_save",
    ),
    "bias": ({"config": adapter_config(bias="all")}, "adapter_config.json", "bias"),
    "lora bias": (
        {"config": adapter_config(lora_bias=True)},
        "adapter_config.json",
        "lora_bias",
    ),
    "rank pattern": (
        {"config": adapter_config(rank_pattern={"q_proj": 64})},
        "adapter_config.json",
        "rank_pattern",
    ),
    "alpha pattern": (
        {"config": adapter_config(alpha_pattern={"(a+)+$": 64})},
        "adapter_config.json",
        "alpha_pattern",
    ),
    "alpha not finite": (
        {"config": json.dumps(adapter_config(lora_alpha=float("inf"))).encode()},
        "adapter_config.json",
        "lora_alpha",
    ),
    "alpha that overflows the products": (
        {"config": adapter_config(lora_alpha=1e39)},
        "adapter_model.safetensors",
        "can overflow float16",
    ),
    "a module that is not named": (
        {"config": adapter_config(target_modules=["q_proj"])},
        "adapter_config.json",
        "target_modules: does not name model.layers.0.mlp.down_proj",
    ),
    "a name of a part of another": (
        {"config": adapter_config(target_modules=["q_proj", "proj"])},
        "adapter_config.json",
        "target_modules: does not name model.layers.0.mlp.down_proj",
    ),
    "no name at all": (
        {"config": adapter_config(target_modules=[])},
        "adapter_config.json",
        "target_modules: does not name",
    ),
    "a named module without weights": (
        {"weights": {name: t for name, t in adapter_weights().items() if "q_proj" in name}},
        "adapter_config.json",
        "target_modules: names 'down_proj'",
    ),
    "a pattern of names": (
        {"config": adapter_config(target_modules="(.*_proj)+")},
        "adapter_config.json",
        "target_modules: Value error, must be a list of names",
    ),
    "a key given twice": (
        {"config": json.dumps(adapter_config())[:-1].encode() + b', "r": 4}'},
        "adapter_config.json",
        "'r' is given twice",
    ),
    "a key given twice inside": (
        {
            "config": json.dumps(adapter_config(eva_config={"a": 1, "b": 2}))
            .replace('"b"', '"a"')
            .encode()
        },
        "adapter_config.json",
        "'a' is given twice",
    ),
    "some of the layers": (
        {"config": adapter_config(layers_to_transform=[0])},
        "adapter_config.json",
        "layers_to_transform: must be unset",
    ),
    "the first layer alone": (
        {"config": adapter_config(layers_to_transform=0)},
        "adapter_config.json",
        "layers_to_transform",
    ),
    "transposed weights": (
        {"config": adapter_config(fan_in_fan_out=True)},
        "adapter_config.json",
        "fan_in_fan_out",
    ),
    "trained embeddings": (
        {"config": adapter_config(trainable_token_indices={"embed_tokens": [3]})},
        "adapter_config.json",
        "trainable_token_indices",
    ),
    "replicated layers": (
        {"config": adapter_config(layer_replication=[[0, 1], [0, 1]])},
        "adapter_config.json",
        "layer_replication",
    ),
    "a base that was changed": (
        {"config": adapter_config(init_lora_weights="pissa")},
        "adapter_config.json",
        "init_lora_weights: Value error, must be true, false",
    ),
    "modules that are excluded": (
        {"config": adapter_config(exclude_modules=["mlp.down_proj"])},
        "adapter_config.json",
        "exclude_modules: excludes model.layers.0.mlp.down_proj",
    ),
    "modules that a pattern excludes": (
        {"config": adapter_config(exclude_modules=".*mlp.*")},
        "adapter_config.json",
        "exclude_modules: Value error, must be a list of names",
    ),
    "another framework": (
        {"config": adapter_config(megatron_config={"tensor_model_parallel_size": 2})},
        "adapter_config.json",
        "megatron_config: must be unset",
    ),
    "an initialisation's settings": (
        {"config": adapter_config(loftq_config={"loftq_bits": 4})},
        "adapter_config.json",
        "loftq_config: must be unset",
    ),
    "a feature of a PEFT to come": (
        {"config": adapter_config(use_newlora={"depth": 2})},
        "adapter_config.json",
        "use_newlora: must be unset",
    ),
    "config too large": (
        {"config": b" " * (2**20 + 1)},
        "adapter_config.json",
        "more than",
    ),
    "not safetensors": (
        {"weights": b"PK\x03\x04 a pickle"},
        "adapter_model.safetensors",
        "not a safetensors file",
    ),
    "truncated": (
        {"weights": save(adapter_weights())[:-8]},
        "adapter_model.safetensors",
        "not a safetensors file",
    ),
    "empty file": (
        {"weights": b""},
        "adapter_model.safetensors",
        "not a safetensors file",
    ),
    "no tensors": ({"weights": save({})}, "adapter_model.safetensors", "no tensors"),
    "another rank than configured": (
        {"weights": adapter_weights(rank=2)},
        "adapter_model.safetensors",
        "has shape [2, 32], not [4, 32]",
    ),
    "shapes of another base": (
        {"weights": tampered(**{q_proj("B"): torch.ones(17, 4)})},
        "adapter_model.safetensors",
        "shape [17, 4], not [16, 4]",
    ),
    "a vector": (
        {"weights": tampered(**{q_proj("A"): torch.ones(4)})},
        "adapter_model.safetensors",
        "shape [4]",
    ),
    "half a pair": (
        {"weights": {k: v for k, v in adapter_weights().items() if k != q_proj("B")}},
        "adapter_model.safetensors",
        "lora_B is missing",
    ),
    "unknown module": (
        {"weights": tampered(**{q_proj("A").replace("q_proj", "c_attn"): torch.ones(4, 16)})},
        "adapter_model.safetensors",
        "no linear layer",
    ),
    "value head": (
        {"weights": tampered(**{"v_head.weight": torch.ones(1, 16)})},
        "adapter_model.safetensors",
        "not a LoRA tensor",
    ),
    "DoRA magnitudes": (
        {
            "weights": tampered(
                **{q_proj("A").replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(16)},
            )
        },
        "adapter_model.safetensors",
        "not a LoRA tensor",
    ),
    "NaN": (
        {"weights": tampered(**{q_proj("A"): torch.full((4, 16), torch.nan)})},
        "adapter_model.safetensors",
        "not finite",
    ),
    "finite here and infinite in the engine": (
        {"weights": tampered(**{q_proj("A"): torch.full((4, 16), 1e6)})},
        "adapter_model.safetensors",
        "not finite in float16",
    ),
    "integers": (
        {"weights": tampered(**{q_proj("A"): torch.ones(4, 16, dtype=torch.int8)})},
        "adapter_model.safetensors",
        "dtype I8",
    ),
}


@pytest.mark.parametrize("name", BAD_UPLOADS)
async def test_a_bad_upload_is_named_and_changes_nothing(
    client: Client, engine: FakeEngine, state_dir: Path, name: str
) -> None:
    upload, param, words = BAD_UPLOADS[name]
    await client.put_adapter(1)
    before = await client.get("/v1/adapters"), dict(engine.served), dict(engine.loaded)
    response = await client.put_adapter(2, **upload)
    error = ErrorResponse.model_validate(response.json()).error
    assert response.status_code == (413 if "too large" in name else 400)
    assert error.param == param
    assert words in error.message
    assert (await client.get("/v1/adapters")).json() == before[0].json()
    assert (engine.served, engine.loaded) == before[1:]
    assert [path.name for path in state_dir.iterdir() if path.is_dir()] == ["policy-000001"]
    assert (await client.put_adapter(2)).status_code == 201


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
async def test_a_full_disk_is_said_with_the_folder_and_the_upload_succeeds_once_it_has_room(
    client: Client, state_dir: Path
) -> None:
    record = state_dir / "registry.json"
    record.symlink_to("/dev/full")
    response = await client.put_adapter(1)
    error = ErrorResponse.model_validate(response.json()).error
    assert (response.status_code, error.type) == (507, "storage")
    assert f"no space is left on the disk of the server's --state-dir {state_dir}" in error.message
    assert (await client.get("/v1/adapters")).json()["active_version"] is None
    record.unlink()
    assert (await client.put_adapter(1)).status_code == 200
    assert (await client.get("/v1/adapters")).json()["active_version"] == 1
    assert json.loads(record.read_text())["next_version"] == 2


async def test_an_upload_without_room_for_its_files_leaves_none(
    client: Client, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", write)
        assert (await client.put_adapter(1)).status_code == 507
    assert not list(state_dir.iterdir())
    assert (await client.put_adapter(1)).status_code == 201


async def test_a_full_disk_of_temporary_files_is_said_with_its_folder(
    client: Client, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large parts of a form are kept in files there until they have all arrived."""

    class Full(tempfile.SpooledTemporaryFile[bytes]):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(formparsers, "SpooledTemporaryFile", Full)
        response = await client.put_adapter(1)
    error = ErrorResponse.model_validate(response.json()).error
    assert (response.status_code, error.type) == (507, "storage")
    assert tempfile.gettempdir() in error.message
    assert not list(state_dir.iterdir())
    assert (await client.put_adapter(1)).status_code == 201


async def test_what_the_engine_refuses_changes_nothing(
    client: Client, engine: FakeEngine, state_dir: Path
) -> None:
    engine.reject = "no such thing as this adapter"
    response = await client.put_adapter(1)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_adapter"
    assert engine.reject in response.json()["error"]["message"]
    assert not list(state_dir.iterdir())
    engine.reject = None
    assert (await client.put_adapter(1)).status_code == 201


@pytest.mark.parametrize(
    ("logprob", "reason", "status"),
    [
        (math.nan, FinishReason.LENGTH, 400),
        (math.inf, FinishReason.LENGTH, 400),
        (-math.inf, FinishReason.STOP, 400),
        (-1.0, FinishReason.ABORT, 503),
    ],
)
@pytest.mark.parametrize("activate", ["true", "false"])
async def test_a_version_is_tried_before_it_can_be_reached(
    client: Client,
    engine: FakeEngine,
    state_dir: Path,
    logprob: float,
    reason: FinishReason,
    status: int,
    activate: str,
) -> None:
    await client.put_adapter(1)
    before = await client.get("/v1/adapters"), dict(engine.served), dict(engine.loaded)
    usual = engine.first_completion
    engine.first_completion = replace(usual, logprobs=[logprob], finish_reason=reason)
    response = await client.put_adapter(2, params={"activate": activate})
    assert response.status_code == status
    assert (await client.get("/v1/adapters")).json() == before[0].json()
    assert (engine.served, engine.loaded) == before[1:]
    assert [path.name for path in state_dir.iterdir() if path.is_dir()] == ["policy-000001"]
    engine.first_completion = usual
    assert (await client.put_adapter(2, weights=adapter_weights(7))).status_code == 201


async def test_fields_without_effect_may_have_any_value(client: Client) -> None:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    names = ["q_proj", "down_proj"]
    of_peft = {**config.to_dict(), "target_modules": names, "lora_dropout": 0.1}
    response = await client.put_adapter(1, config=json.dumps(of_peft, default=str).encode())
    assert response.status_code == 201, response.text


@pytest.mark.parametrize(
    "names",
    [
        "all-linear",
        ["model.layers.0.self_attn.q_proj", "mlp.down_proj"],
        ["q_proj", "down_proj", "of_another_model"],
    ],
)
async def test_modules_may_be_named_in_all_of_pefts_ways(
    client: Client, names: str | list[str]
) -> None:
    response = await client.put_adapter(1, config=adapter_config(target_modules=names))
    assert response.status_code == 201, response.text


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
async def test_an_upload_needs_its_parts(
    client: Client, files: list[tuple[str, bytes]], data: dict[str, str], param: str
) -> None:
    response = await client.put("/v1/adapters/1", files=files, data=data)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_an_upload_that_is_not_multipart_is_refused(client: Client) -> None:
    response = await client.put("/v1/adapters/1", content=b"x")
    assert response.status_code == 400
    assert "multipart/form-data" in response.json()["error"]["message"]
    headers = {"Content-Type": "multipart/form-data"}
    response = await client.put("/v1/adapters/1", content=b"x", headers=headers)
    assert response.status_code == 400
    assert "malformed" in response.json()["error"]["message"]


async def test_a_forms_boundary_makes_it_no_json(client: Client) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=json"}
    response = await client.put("/v1/adapters/1", content=b"\xff", headers=headers)
    assert "malformed" in response.json()["error"]["message"]


async def test_an_upload_that_is_too_large_is_refused_early_declared_or_not(
    client: Client, settings: Settings, state_dir: Path
) -> None:
    large = bytes(settings.max_adapter_bytes + 2**21)
    response = await client.put_adapter(1, weights=large)
    assert response.status_code == 413

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 2**16):
            yield large[start : start + 2**16]

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    preamble = b'--b\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n'

    async def body() -> AsyncIterator[bytes]:
        yield preamble
        async for chunk in chunks():
            yield chunk

    response = await client.put("/v1/adapters/1", content=body(), headers=headers)
    assert response.status_code == 413
    # These weights are over their own limit, but within that of the whole body.
    response = await client.put_adapter(1, weights=bytes(settings.max_adapter_bytes + 1))
    assert response.status_code == 413
    assert not list(state_dir.iterdir())
