"""LoRA's metadata on a GPU: the same as vLLM's own, and without a read from the GPU."""

import dataclasses
import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

kernels = pytest.importorskip("vllm.lora.ops.triton_ops.lora_kernel_metadata")
punica_gpu = pytest.importorskip("vllm.lora.punica_wrapper.punica_gpu")
gpu_lora = pytest.importorskip("inference_server.vllm.gpu_lora")
patches = pytest.importorskip("inference_server.vllm.patches")

torch_utils = pytest.importorskip("vllm.utils.torch_utils")

MAX_LORAS, MAX_TOKENS = 4, 64
TENSORS = ("token_lora_mapping", "token_indices_sorted_by_lora_ids")
CAPTURED = [[], [1, 2, 4, 5], [5], [1]]


@pytest.fixture(scope="module", autouse=True)
def without_pinned_memory() -> Iterator[None]:
    """vLLM's build for a GPU would pin memory, which needs a driver."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_utils, "is_pin_memory_available", lambda: False)
        yield


def metadata(captured: list[int], device: str = "cpu") -> Any:
    made = kernels.LoRAKernelMeta.make(MAX_LORAS, MAX_TOKENS, device, captured)
    for name in TENSORS:  # what a batch does not set is otherwise whatever was in memory
        getattr(made, name).fill_(-7)
    return made


def values_of(made: Any) -> dict[str, Any]:
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    return {
        name: value.tolist() if isinstance(value, torch.Tensor) else value
        for name, value in fields.items()
    }


BATCHES = st.lists(
    st.lists(st.integers(-1, MAX_LORAS - 1), max_size=MAX_TOKENS), min_size=1, max_size=3
)


@given(BATCHES, st.sampled_from(CAPTURED))
def test_metadata_of_batches_one_after_the_other_are_vllms_own(
    batches: list[list[int]], captured: list[int]
) -> None:
    ours, vllms = metadata(captured), metadata(captured)
    for slots in batches:
        gpu_lora.set_metadata(ours, np.array(slots, dtype=np.int16))
        vllms.prepare_tensors(torch.tensor(slots, dtype=torch.long))
        assert values_of(ours) == values_of(vllms)


def test_nothing_is_read_back_from_the_device() -> None:
    """A tensor without values raises at a read of one; vLLM's own function is the counterexample."""
    slots = np.array([0, 2, -1, 2], dtype=np.int16)
    with FakeTensorMode():
        with pytest.raises(DataDependentOutputException):
            metadata([], "meta").prepare_tensors(torch.zeros(4, dtype=torch.long, device="meta"))
        made = metadata([], "meta")
        gpu_lora.set_metadata(made, slots)
    assert made.num_active_loras_cpu.device.type == "cpu"


@pytest.mark.parametrize(
    ("tokens", "prompts"),
    [
        ([7, 7, 3, 0, 9, 9], [7, 3, 0, 9]),
        ([0, 0], [0, 0]),
        ([3], [3]),
        (tuple(np.array([9, 3, 9], dtype=np.int32)), (np.int32(9), np.int32(3))),
        ([7, 7], []),
    ],
    ids=["several and the base", "base alone", "one", "numpy's integers", "none sampled"],
)
def test_the_wrapper_sets_what_vllms_does(
    monkeypatch: pytest.MonkeyPatch, tokens: Any, prompts: Any
) -> None:
    # Only imported there if there is Triton.
    monkeypatch.setattr(punica_gpu, "LoRAKernelMeta", kernels.LoRAKernelMeta, raising=False)
    config = SimpleNamespace(max_loras=MAX_LORAS, specialize_active_lora=False)
    mapping = SimpleNamespace(index_mapping=tokens, prompt_mapping=prompts, is_prefill=True)
    made = []
    for kind in (gpu_lora.AsyncPunicaWrapper, punica_gpu.PunicaWrapperGPU):
        wrapper = kind(MAX_TOKENS, MAX_TOKENS, device="cpu", lora_config=config)
        for meta in (wrapper.token_mapping_meta, wrapper.prompt_mapping_meta):
            for name in TENSORS:
                getattr(meta, name).fill_(-7)
        wrapper.update_metadata(mapping, [7, 3, None, 9], MAX_LORAS, 100)
        metas = (wrapper.token_mapping_meta, wrapper.prompt_mapping_meta)
        made.append(
            [
                wrapper.is_prefill,
                wrapper.token_lora_indices.tolist(),
                wrapper.sampler_indices.tolist(),
                *map(values_of, metas),
            ]
        )
    ours, vllms = made
    assert ours == vllms


def test_an_unknown_adapter_is_an_error_and_no_other_one() -> None:
    with pytest.raises(KeyError):
        gpu_lora.slots_of([7, 8], [7, None])


def test_vllm_imports_the_wrapper_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Platform:
        @classmethod
        def get_punica_wrapper(cls) -> str:
            return "vllm's own"

    monkeypatch.setattr(patches, "current_platform", Platform())
    patches.compute_lora_metadata_on_cpu()
    module, _, name = Platform.get_punica_wrapper().rpartition(".")
    assert getattr(importlib.import_module(module), name) is gpu_lora.AsyncPunicaWrapper
