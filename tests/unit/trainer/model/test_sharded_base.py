"""The error for a base that cannot be divided; `tests/unit/trainer/ranks` computes with one that can."""

import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.model.sharded_base import SharedPasses, is_divided, load_sharded

WEIGHTS = "model.safetensors"
DAMAGED = "model.layers.0.mlp.gate_proj.weight"


@pytest.fixture
def only_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def load(base: Path) -> object:
    return load_sharded(str(base), torch.float32, torch.device("cpu"))


def test_a_lone_process_has_all_of_its_base() -> None:
    assert not is_divided()


def test_a_tensor_that_no_file_has_is_named(base: Path, only_rank: None) -> None:
    tensors = load_file(base / WEIGHTS)
    del tensors[DAMAGED]
    save_file(tensors, base / WEIGHTS)
    with pytest.raises(UsageError, match=f"no tensor called {DAMAGED}, so .*; leave policy"):
        load(base)


def test_a_tensor_of_another_shape_is_one_line(base: Path, only_rank: None) -> None:
    tensors = load_file(base / WEIGHTS)
    tensors[DAMAGED] = tensors[DAMAGED][:, :-1].contiguous()
    save_file(tensors, base / WEIGHTS)
    with pytest.raises(UsageError, match=r"policy\.base_model .*its files cannot be read") as found:
        load(base)
    assert "\n" not in str(found.value)


def test_four_bits_are_not_divided() -> None:
    with pytest.raises(ValidationError, match=r"leave policy\.quantization or policy"):
        PolicyConfig(quantization="nf4", shard_base=True)


@pytest.mark.parametrize(
    ("targets", "is_refused"),
    [(["q_proj"], False), (["layers.0.mlp.up_proj"], False), (["layers.1.mlp.up_proj"], True)],
)
def test_adapters_begin_at_the_first_layer(
    targets: list[str], is_refused: bool, tiny_base: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    get_peft_model(base, LoraConfig(target_modules=targets))
    passes = SharedPasses(base.model, torch.device("cpu"))
    with (
        pytest.raises(UsageError, match="on the first layer: see policy")
        if is_refused
        else nullcontext()
    ):
        passes.require_adapter()
