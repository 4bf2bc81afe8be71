"""The trainer's share of a GPU's memory, with a faked card."""

import os
import subprocess
import sys

import pytest
import torch

from trainer.model.device import leave_memory_to_others


@pytest.mark.parametrize(("device", "fractions"), [("cuda", [0.55]), ("cpu", [])])
def test_the_trainer_keeps_to_what_the_server_leaves(
    device: str, fractions: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    capped: list[float] = []
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (44, 80))
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", capped.append)
    leave_memory_to_others(torch.device(device))
    assert capped == fractions


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
