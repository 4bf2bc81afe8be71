"""Which flags the server chooses for vLLM on a GPU, with a faked card."""

from argparse import Namespace
from pathlib import Path

import pytest
from transformers import GPT2Config

from benchmarks.model_shapes import QWEN2_1_5B

pytestmark = pytest.mark.slow
GIB = 2**30


def arguments(model: Path, **changes: object) -> Namespace:
    """vLLM's parsed arguments, as far as our code reads them."""
    values = {
        "model": str(model),
        "revision": None,
        "dtype": "auto",
        "quantization": None,
        "kv_cache_dtype": "auto",
        "kv_cache_memory_bytes": None,
        "cudagraph_capture_sizes": None,
        "gpu_memory_utilization": 0.45,
        "max_model_len": 4096,
        "max_num_seqs": 512,
        "max_num_batched_tokens": 8192,
    }
    return Namespace(**{**values, **changes})


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of 1.5 billion parameters without its weights, and a card of 80 GiB."""
    from vllm.platforms import current_platform

    monkeypatch.setattr(
        type(current_platform), "get_device_total_memory", lambda *_, **__: 80 * GIB
    )
    QWEN2_1_5B.save_pretrained(tmp_path)
    return tmp_path


def test_the_cache_is_what_the_doctors_plan_says(served: Path) -> None:
    from inference_server.settings import Settings
    from inference_server.vllm.gpu_launch import adjust_for_gpu
    from trainer.config.sections import DoctorConfig, PolicyConfig, ServeConfig
    from trainer.doctor.device import Card
    from trainer.doctor.memory_plan import plan_memory
    from trainer.doctor.model_shape import read_shape

    args = arguments(served)
    adjust_for_gpu(args, Settings(model=str(served), gpu_memory_utilization=0.45), [])
    shape = read_shape(str(served), PolicyConfig().target_modules)
    serve = ServeConfig(gpu_memory_utilization=0.45, max_model_len=4096)
    card = Card(on_gpu=True, memory_bytes=80 * GIB)
    plan = plan_memory(shape, DoctorConfig(serve=serve), card)
    assert args.kv_cache_memory_bytes == int(plan.kv_cache_bytes)
    assert plan.kv_tokens > 900_000
    assert args.cudagraph_capture_sizes[-1] == 512
    # What must be free when it starts, beside a trainer that runs.
    assert args.gpu_memory_utilization == pytest.approx(0.95 * 0.45)


def test_the_share_is_one_thing_as_a_flag_and_as_a_setting(served: Path) -> None:
    from inference_server.settings import Settings
    from inference_server.vllm.gpu_launch import adjust_for_gpu

    by_flag, by_setting = arguments(served), arguments(served)
    adjust_for_gpu(by_flag, Settings(model=str(served)), ["--gpu-memory-utilization", "0.45"])
    adjust_for_gpu(by_setting, Settings(model=str(served), gpu_memory_utilization=0.45), [])
    assert by_flag.kv_cache_memory_bytes == by_setting.kv_cache_memory_bytes > 0
    assert by_flag.gpu_memory_utilization == by_setting.gpu_memory_utilization


def test_a_model_that_names_its_sizes_otherwise_is_left_to_vllm(served: Path) -> None:
    from inference_server.settings import Settings
    from inference_server.vllm.gpu_launch import adjust_for_gpu

    GPT2Config().save_pretrained(served)
    args = arguments(served, max_model_len=None)
    adjust_for_gpu(args, Settings(model=str(served), gpu_memory_utilization=0.45), [])
    assert args.kv_cache_memory_bytes is None


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        (["--kv-cache-memory-bytes=5"], {"kv_cache_memory_bytes": 5}),
        (["--quantization=fp8"], {"quantization": "fp8"}),
        (["--kv-cache-dtype=fp8"], {"kv_cache_dtype": "fp8"}),
    ],
)
def test_what_the_user_gives_or_the_plan_does_not_know_is_left_to_vllm(
    given: list[str], changes: dict[str, object], served: Path
) -> None:
    from inference_server.settings import Settings
    from inference_server.vllm.gpu_launch import adjust_for_gpu

    args = arguments(served, **changes)
    adjust_for_gpu(args, Settings(model=str(served), gpu_memory_utilization=0.45), given)
    assert args.kv_cache_memory_bytes == changes.get("kv_cache_memory_bytes")


@pytest.mark.parametrize(
    ("changes", "leaves"),
    [
        ({"gpu_memory_utilization": 0.05}, "a cache of 0 tokens"),
        ({"max_model_len": 2**21}, "2,097,152"),
    ],
)
def test_a_cache_without_room_for_one_sequence_is_refused(
    changes: dict[str, object], leaves: str, served: Path
) -> None:
    from inference_server.settings import Settings
    from inference_server.vllm.gpu_launch import adjust_for_gpu
    from inference_server.wire.settings.errors import SettingsError

    settings = Settings(model=str(served), gpu_memory_utilization=0.45)
    with pytest.raises(SettingsError, match=r"lower serve\.max_model_len") as refused:
        adjust_for_gpu(arguments(served, **changes), settings, [])
    assert leaves in str(refused.value)


@pytest.mark.parametrize(
    "given", [["--enforce-eager"], ["-cc", "{}"], ["-O3"], ["--cudagraph_capture_sizes", "1"]]
)
def test_graphs_that_the_user_chooses_stay(given: list[str], served: Path) -> None:
    from inference_server.settings import Settings
    from inference_server.vllm.gpu_launch import adjust_for_gpu

    args = arguments(served)
    adjust_for_gpu(args, Settings(model=str(served)), given)
    assert args.cudagraph_capture_sizes is None
    assert args.kv_cache_memory_bytes is None


def test_float32_is_refused_before_the_engine_starts(served: Path) -> None:
    from inference_server.settings import Settings
    from inference_server.vllm.gpu_launch import adjust_for_gpu
    from inference_server.wire.settings.errors import SettingsError

    with pytest.raises(SettingsError, match="--dtype float32: vLLM's LoRA kernels"):
        adjust_for_gpu(arguments(served, dtype="float32"), Settings(model=str(served)), [])
