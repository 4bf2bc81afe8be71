"""What a worker replies if it cannot load an adapter."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from inference_server.vllm import worker_replies


class Manager:
    def add_adapter(self, request: Any) -> bool:
        if request.lora_name == "broken":
            raise ValueError("no such file")
        return True


def add(name: str, *, num_workers: int) -> bool:
    with warnings.catch_warnings(action="ignore"):  # of what vLLM imports
        from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

        worker_replies.install()
    runner = LoRAModelRunnerMixin()
    runner.lora_manager = Manager()
    runner.vllm_config = SimpleNamespace(parallel_config=SimpleNamespace(world_size=num_workers))
    held: bool = runner.add_lora(SimpleNamespace(lora_name=name))
    return held


@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_can_be_loaded_is(num_workers: int) -> None:
    assert add("fine", num_workers=num_workers)


def test_one_of_several_workers_replies_and_a_lone_one_raises() -> None:
    assert not add("broken", num_workers=2)
    with pytest.raises(ValueError, match="no such file"):
        add("broken", num_workers=1)
