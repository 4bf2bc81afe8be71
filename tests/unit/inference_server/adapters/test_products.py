"""Adapters whose numbers overflow in the engine, each finite by itself."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from inference_server.adapters.storage import StagedAdapter
from inference_server.adapters.validation import validate_adapter
from inference_server.engine import EngineTraits, LinearShape
from inference_server.errors import InvalidAdapter

RANK, WIDTH = 4, 16
MODULES = ("model.layers.0.q_proj", "model.layers.0.o_proj")


def validate(
    folder: Path, dtype: str, alpha: float, a: list[float], b: list[float], *, rslora: bool = False
) -> None:
    """Validates an adapter of constant matrices, one value of A and one of B for each module."""
    tensors = {}
    for module, of_a, of_b in zip(MODULES, a, b, strict=True):
        prefix = f"base_model.model.{module}"
        tensors[f"{prefix}.lora_A.weight"] = torch.full((RANK, WIDTH), of_a)
        tensors[f"{prefix}.lora_B.weight"] = torch.full((WIDTH, RANK), of_b)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": alpha}
    config |= {"use_rslora": rslora, "target_modules": ["q_proj", "o_proj"]}
    shape = LinearShape(in_features=WIDTH, out_features=WIDTH)
    traits = EngineTraits(
        base_model="m",
        base_fingerprint=None,
        max_model_len_tokens=100,
        max_lora_rank=8,
        max_loaded_adapters=2,
        lora_dtype=dtype,
        num_replicas=1,
        has_chat_template=False,
        opened_thought="",
        linear_shapes=dict.fromkeys(MODULES, shape),
    )
    staged = StagedAdapter(
        folder=folder, config_json=json.dumps(config).encode(), sha256="", size_bytes=0
    )
    validate_adapter(staged, traits)


REFUSED = {
    "alpha": ("float32", 1e39, [0.1, 0.1], [0.1, 0.1]),
    "alpha, though B is still 0": ("float32", 1e39, [0.1, 0.1], [0.0, 0.0]),
    "A": ("bfloat16", 8.0, [0.1, 3e38], [0.1, 0.1]),
    "A, though B is still 0": ("float32", 8.0, [0.1, 3e38], [0.0, 0.0]),
    "B": ("float32", 8.0, [0.1, 0.1], [3e38, 0.1]),
    "B with its scale": ("float32", 1e12, [0.0, 0.0], [1e30, 1e30]),
    "A and B together": ("float32", 8.0, [0.1, 1e6], [0.1, 1e6]),
    "all three": ("float32", 1e4, [1e3, 1e3], [1e3, 1e3]),
    "A in half precision": ("float16", 8.0, [0.1, 6e4], [0.1, 0.0]),
    "the product in half precision": ("float16", 8.0, [5.0, 0.1], [20.0, 0.1]),
    "the scale in half precision": ("float16", 1e6, [0.1, 0.1], [0.0, 0.0]),
}
ACCEPTED = {
    "as trained": ("bfloat16", 16.0, [0.1, 0.1], [0.05, 0.05]),
    "as trained, in half precision": ("float16", 16.0, [0.1, 0.1], [0.05, 0.05]),
    "fresh": ("float16", 16.0, [0.1, 0.1], [0.0, 0.0]),
    "large for small": ("float32", 8.0, [1e-6, 1e-6], [1e6, 1e6]),
    # No layer has both of the large values.
    "large in different layers": ("float16", 8.0, [100.0, 1e-3], [1e-3, 100.0]),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_products_that_can_overflow_are_refused(
    tmp_path: Path, case: tuple[str, float, list[float], list[float]]
) -> None:
    with pytest.raises(InvalidAdapter, match=f"o_proj.*overflow {case[0]}|q_proj.*{case[0]}"):
        validate(tmp_path, *case)


@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_adapters_that_stay_in_range_are_accepted(
    tmp_path: Path, case: tuple[str, float, list[float], list[float]]
) -> None:
    validate(tmp_path, *case)


_EXPONENTS = st.floats(min_value=-37, max_value=37)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    dtype=st.sampled_from(["float16", "bfloat16", "float32"]),
    exponents=st.tuples(_EXPONENTS, _EXPONENTS, _EXPONENTS),
    rslora=st.booleans(),
)
def test_what_is_accepted_computes_finite_numbers(
    tmp_path: Path, dtype: str, exponents: tuple[float, float, float], rslora: bool
) -> None:
    alpha, a, b = (10.0**exponent for exponent in exponents)
    try:
        validate(tmp_path, dtype, alpha, [a, a], [b, b], rslora=rslora)
    except InvalidAdapter:
        return
    rounded = getattr(torch, dtype)
    # As vLLM does: B takes up the scale in the engine's dtype, the product with A is float32 at first.
    scaled = torch.full((WIDTH, RANK), b).to(rounded) * (alpha / (RANK**0.5 if rslora else RANK))
    low_rank = torch.full((RANK, WIDTH), a).to(rounded).float() @ torch.full((WIDTH,), 8.0)
    assert scaled.isfinite().all()
    assert (scaled @ low_rank.to(rounded)).isfinite().all()
