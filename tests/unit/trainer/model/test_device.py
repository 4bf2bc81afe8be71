"""The trainer's share of a GPU's memory, with a faked card."""

import os
import subprocess
import sys

import pytest
import torch

from trainer.model.device import gathered, limit_gpu_memory, set_product_precision
from trainer.model.head import scalars


@pytest.mark.parametrize(("device", "fractions"), [("cuda", [0.53]), ("cpu", [])])
def test_the_trainer_keeps_to_what_the_server_leaves(
    device: str, fractions: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    capped: list[float] = []
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (44, 80))
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", capped.append)
    limit_gpu_memory(torch.device(device))
    assert capped == pytest.approx(fractions)


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cuda", torch.bfloat16, "tf32"),
        ("cuda", torch.float16, "tf32"),
        ("cuda", torch.float32, "ieee"),
        ("cpu", torch.bfloat16, "as it was"),
    ],
)
def test_float32_products_are_rounded_beside_a_base_of_16_bits_only(
    device: str, dtype: torch.dtype, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Matmul:
        fp32_precision = "as it was"

    monkeypatch.setattr("torch.backends.cuda.matmul", Matmul)
    set_product_precision(torch.device(device), dtype)
    assert Matmul.fp32_precision == expected


def test_the_value_head_multiplies_no_two_matrices_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A product of two matrices could be rounded to TF32."""
    head, states = torch.nn.Linear(8, 1), torch.randn(5, 8, requires_grad=True)
    weights = torch.randn(5)
    parameters = [states, *head.parameters()]
    expected = scalars(head, states)
    of_expected = torch.autograd.grad((expected * weights).sum(), parameters)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    with torch.profiler.profile() as profile:
        found = scalars(head, states)
        of_found = torch.autograd.grad((found * weights).sum(), parameters)
    ran = {event.key for event in profile.key_averages()}
    assert "aten::addmv" in ran
    assert not ran & {"aten::mm", "aten::addmm", "aten::bmm"}
    for one, other in zip((found, *of_found), (expected, *of_expected), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, "backend:native"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, None),
    ],
)
def test_the_allocator_is_set_before_torch_is_imported(
    given: dict[str, str], expected: str | None
) -> None:
    code = (
        "import os, sys\n"
        "from trainer.console.environment import prepare_environment\n"
        "prepare_environment()\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ.get('PYTORCH_ALLOC_CONF'))\n"
    )
    unset = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code], env=unset | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(expected)


@pytest.mark.parametrize("shape", [(7,), (7, 3)])
@pytest.mark.parametrize("indices", [[0, 6, 6, 0, 6], [[1, 1], [5, 1]]])
def test_what_is_gathered_is_what_indexing_takes(
    shape: tuple[int, ...], indices: list[int] | list[list[int]]
) -> None:
    values = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    index = torch.tensor(indices)
    by_index, found = values[index], gathered(values, index)
    assert found.equal(by_index)
    weights = torch.randn_like(found)
    (expected,) = torch.autograd.grad((by_index * weights).sum(), values)
    (gradient,) = torch.autograd.grad((found * weights).sum(), values)
    torch.testing.assert_close(gradient, expected)
