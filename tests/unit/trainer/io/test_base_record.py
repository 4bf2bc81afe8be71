"""What is known of the base that an adapter was trained on, and whether it is the one that is used with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference_server.wire.base_files import fingerprint, known_fingerprint
from trainer.config.sections import PolicyConfig, SFTRunConfig
from trainer.errors import UsageError
from trainer.io.adapter_settings import base_advice
from trainer.io.base_record import (
    BaseRecord,
    base_of,
    keep_base,
    read_base,
    require_same_base,
    write_base,
)
from trainer.io.kept_settings import CONFIG_FILE, keep_settings


def base_with(weights: bytes, folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return base_with(b"first", tmp_path / "first")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return base_with(b"second", tmp_path / "second")


def policy_on(base: object, **more: Any) -> PolicyConfig:
    return PolicyConfig.model_validate({"base_model": str(base), **more})


def test_files_that_are_not_all_there_have_no_fingerprint(first: Path) -> None:
    assert known_fingerprint(str(first)) == fingerprint(first)
    index = first / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "more"}}))
    assert known_fingerprint(str(first)) is None
    (first / "more").touch()
    assert known_fingerprint(str(first)) == fingerprint(first)
    index.write_text("[]")
    assert known_fingerprint(str(first)) is None
    index.unlink()
    (first / "model.safetensors").unlink()
    assert known_fingerprint(str(first)) is None
    assert known_fingerprint("not/here") is None


def test_the_record_is_completed_as_more_becomes_known(first: Path, tmp_path: Path) -> None:
    keep_base(tmp_path, policy_on("not/here"))
    assert read_base(tmp_path) == BaseRecord(base_model="not/here", fingerprint=None)
    four_bits = policy_on(first, quantization="nf4")
    keep_base(tmp_path, four_bits, served="dequantized")
    known = read_base(tmp_path)
    assert known is not None
    assert (known.fingerprint, known.served_fingerprint) == (fingerprint(first), "dequantized")
    keep_base(tmp_path, four_bits)
    assert read_base(tmp_path) == known


@pytest.mark.parametrize("damaged", ["{", "[]", '{"base_model": 1}', '{"fingerprint": "a"}'])
def test_a_record_that_cannot_be_read_is_none(damaged: str, first: Path, tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(damaged)
    require_same_base(tmp_path, policy_on(first))
    keep_base(tmp_path, policy_on(first))
    assert read_base(tmp_path) == BaseRecord.of(str(first), None)


def test_the_same_files_in_4_bits_are_the_same_base(first: Path, tmp_path: Path) -> None:
    keep_base(tmp_path, policy_on(first, quantization="nf4"))
    require_same_base(tmp_path, policy_on(first, quantization="nf4"))
    (first / "model.safetensors").write_bytes(b"another revision")
    with pytest.raises(UsageError, match=r"^policy\.base_model: .* was trained on .* not on"):
        require_same_base(tmp_path, policy_on(first, quantization="nf4"))


@pytest.mark.parametrize("place", ["", "adapters/policy-000012", "start"])
def test_an_adapter_of_another_base_is_warned_about(
    place: str, first: Path, second: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "run" / place
    adapter.mkdir(parents=True)
    keep_base(tmp_path / "run", policy_on(first))
    assert base_advice(policy_on(first, adapter=adapter)) == []
    (line,) = base_advice(policy_on(second, adapter=adapter))
    assert line == (
        f"{adapter} was trained on {first} with fingerprint {fingerprint(first)}, not on {second} with "
        f"{fingerprint(second)}: set policy.base_model to the former, unless this is intended"
    )
    # In 4 bits the weights are others than those in the files, which says nothing.
    assert base_advice(policy_on(second, adapter=adapter, quantization="nf4")) == []
    assert base_advice(policy_on(second)) == []


def test_an_adapter_from_before_the_record_names_its_base_itself(
    first: Path, second: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "sft"
    adapter.mkdir()
    policy = policy_on(second, adapter=adapter)
    for text in ("", "[]", "{}", '{"base_model_name_or_path": null}', "[" * 100_000):
        (adapter / "adapter_config.json").write_text(text)
        assert base_advice(policy) == []
    named = json.dumps({"base_model_name_or_path": str(first)})
    (adapter / "adapter_config.json").write_text(named)
    assert base_of(adapter) is None
    (line,) = base_advice(policy)
    assert f"{adapter} was trained on {first} with" in line
    four_bits = SFTRunConfig(policy=policy_on(first, quantization="nf4"))
    keep_settings(adapter / CONFIG_FILE, four_bits, free=())
    assert base_advice(policy) == []
    # Whether it was in 4 bits is not known.
    (adapter / CONFIG_FILE).write_text("[sft]\nepochs = 1\n")
    (line,) = base_advice(policy)
    assert line.startswith(f"whether {adapter} was trained on {second} was not checked: {adapter}/")
    assert "sft.epochs: unknown key" in line


def test_a_version_in_the_current_folder_is_of_the_run_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapters").mkdir()
    record = BaseRecord(base_model="b", fingerprint="f")
    write_base(tmp_path, record)
    monkeypatch.chdir(tmp_path / "adapters")
    assert base_of(Path("policy-000012")) == record
