"""A server of another base model is refused where both sides have its files."""

import json
from pathlib import Path

import pytest

from inference_server.wire.base_files import fingerprint
from tests.unit.versions_in_memory import STATUS
from trainer.client.compatibility import check_base, check_server
from trainer.config.sections import PolicyConfig, TrainConfig
from trainer.errors import UsageError

OTHER = "0" * 16


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_another_revision_is_refused_with_both_names(base: Path) -> None:
    status = STATUS.model_copy(update={"base_fingerprint": OTHER, "base_model": "served/model"})
    with pytest.raises(UsageError, match=f"served/model with fingerprint {OTHER}") as caught:
        check_base(status, PolicyConfig(base_model=str(base)))
    assert fingerprint(base) in str(caught.value)


def test_a_base_in_4_bits_is_not_served_by_its_own_files(base: Path) -> None:
    policy = PolicyConfig(base_model=str(base), quantization="nf4")
    status = STATUS.model_copy(update={"base_fingerprint": fingerprint(base)})
    with pytest.raises(UsageError, match=r"4-bit weights differ from these: fix .*dequantize"):
        check_base(status, policy)


def test_a_base_whose_weights_are_still_to_be_downloaded_is_not_another_one(base: Path) -> None:
    (base / "model.safetensors").unlink()
    check_base(
        STATUS.model_copy(update={"base_fingerprint": OTHER}), PolicyConfig(base_model=str(base))
    )


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_what_is_the_same_or_cannot_be_compared_is_not_refused(
    base: Path, quantization: str | None
) -> None:
    policy = PolicyConfig.model_validate({"base_model": str(base), "quantization": quantization})
    served = [fingerprint(base), None] if quantization is None else [OTHER]
    for found in served:
        check_base(STATUS.model_copy(update={"base_fingerprint": found}), policy)
    check_base(
        STATUS.model_copy(update={"base_fingerprint": OTHER}), PolicyConfig(base_model="not/here")
    )


def test_the_rank_of_a_starting_adapter_counts_and_not_the_setting(tmp_path: Path) -> None:
    lora = {"peft_type": "LORA", "r": 64, "lora_alpha": 128, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(lora))
    for policy, said in (
        (PolicyConfig(lora_rank=32), "policy.lora_rank is 32, but .* rank 16; lower it or raise"),
        (PolicyConfig(adapter=tmp_path), f"{tmp_path} has rank 64, but .* rank 16; raise the"),
    ):
        limits = STATUS.limits.model_copy(
            update={"max_lora_rank": 16, "max_samples_per_arm": 8, "max_loaded_versions": 4}
        )
        status = STATUS.model_copy(update={"limits": limits})
        with pytest.raises(UsageError, match=said):
            check_server(status, TrainConfig(policy=policy))
        roomy = limits.model_copy(update={"max_lora_rank": 64})
        check_server(status.model_copy(update={"limits": roomy}), TrainConfig(policy=policy))
