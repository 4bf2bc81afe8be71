"""The benchmark of a step on a GPU, tried on a CPU as its help says."""

import pytest
import torch

from benchmarks.trainer.gpu_step import measure
from benchmarks.trainer.gpu_step.part import ATTENTIONS, Part

CPU = torch.device("cpu")


@pytest.mark.parametrize("attention", ["efficient", "cudnn"])
def test_a_kernel_that_a_cpu_does_not_have_is_no_failure(
    attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attend(part: Part, *_: object) -> dict[str, object]:
        q = torch.zeros(1, 1, 4, 8)
        with measure.kernel(part.attention):
            torch.nn.functional.scaled_dot_product_attention(q, q, q)
        return {}

    monkeypatch.setattr(measure, "measure", attend)
    part = Part(shape="tiny", budget=512, checkpointing=False, attention=attention)
    assert measure.attempt(part, CPU, 1)["status"] == "refused"
    default = Part(shape="tiny", budget=512, checkpointing=False, attention="default")
    assert ATTENTIONS["default"] is None
    assert measure.attempt(default, CPU, 1)["status"] == "done"
