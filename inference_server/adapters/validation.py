"""Checks whether adapter files can be served: configuration, tensor names, shapes, values and products.

Needs no engine, only its traits.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import torch
from safetensors import SafetensorError, deserialize

from inference_server.adapters.storage import StagedAdapter
from inference_server.engine import EngineTraits, LinearShape
from inference_server.errors import InvalidAdapter
from inference_server.wire.adapters.adapter_config import (
    AdapterConfig,
    AdapterConfigError,
    module_and_side,
    read_config,
)
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


# Inputs of layers are assumed to be below this: after a norm they are about 1.
_INPUT_MAGNITUDE = 8.0
# Largest magnitude that any step of an adapter's products may reach, in every dtype: attention and gated
# layers multiply two outputs and pass the result through a third layer, all in at most float32's range.
_LARGEST_STEP = torch.finfo(torch.float32).max ** 0.25


def validate_adapter(staged: StagedAdapter, traits: EngineTraits) -> AdapterConfig:
    """Checks that the engine can serve an adapter exactly as it was trained.

    Args:
        staged: The adapter's files.
        traits: The engine's limits, dtype and layers.

    Returns:
        The adapter's configuration.

    Raises:
        InvalidAdapter: It cannot be served; names the reason and the file at fault.
    """
    with _naming_the_config():
        config = read_config(staged.config_json)
    if config.r > traits.max_lora_rank:
        raise InvalidAdapter(
            f"r: rank {config.r} exceeds the server's --max-lora-rank {traits.max_lora_rank}",
            ADAPTER_CONFIG_FILE,
        )
    tensors = _read_tensors(staged.folder / ADAPTER_WEIGHTS_FILE)
    _check_pairs(
        {name: tensor.shape for name, tensor in tensors.items()},
        config.r,
        traits.linear_shapes,
    )
    modules = dict.fromkeys(_parse_name(name)[0] for name in tensors)
    with _naming_the_config():
        config.check_modules(modules, traits.linear_shapes)
    _check_values(tensors, config, traits.lora_dtype)
    return config


@contextmanager
def _naming_the_config() -> Iterator[None]:
    try:
        yield
    except AdapterConfigError as error:
        raise InvalidAdapter(str(error), ADAPTER_CONFIG_FILE) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tensor:
    """One tensor of a safetensors file, not decoded."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: bytes


def _read_tensors(path: Path) -> Mapping[str, _Tensor]:
    """The tensors of a file, sorted by name since `deserialize` returns them in no fixed order.

    They stay bytes: making torch tensors of them would take longer than all the checks.
    """
    try:
        entries = sorted(deserialize(path.read_bytes()), key=itemgetter(0))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise InvalidAdapter(f"not a safetensors file: {error}", ADAPTER_WEIGHTS_FILE) from error
    tensors = {}
    for name, entry in entries:
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise InvalidAdapter(
                f"{name}: dtype {entry['dtype']} is not one of {', '.join(_DTYPES)}",
                ADAPTER_WEIGHTS_FILE,
            )
        tensors[name] = _Tensor(dtype=dtype, shape=tuple(entry["shape"]), data=entry["data"])
    return tensors


def _check_values(tensors: Mapping[str, _Tensor], config: AdapterConfig, lora_dtype: str) -> None:
    """Checks that values and their products are finite in the engine's dtype.

    A finite float32 value can be infinite in float16.
    """
    rounded = getattr(torch, lora_dtype)
    data_by_side: dict[tuple[str, torch.dtype], list[bytes]] = defaultdict(list)
    for name, tensor in tensors.items():
        data_by_side[_parse_name(name)[1], tensor.dtype].append(tensor.data)
    largest = {"A": 0.0, "B": 0.0}
    # All tensors of a side are checked at once; their names are looked up only if one fails.
    for (side, dtype), data in data_by_side.items():
        magnitude = _largest(bytearray().join(data), dtype, rounded)
        largest[side] = max(largest[side], magnitude)
    if not all(map(math.isfinite, largest.values())):
        name = next(
            n
            for n, t in tensors.items()
            if not math.isfinite(_largest(bytearray(t.data), t.dtype, rounded))
        )
        raise InvalidAdapter(
            f"{name}: has values that are not finite in {lora_dtype}", ADAPTER_WEIGHTS_FILE
        )
    _check_products(tensors, largest, config, rounded)


def _largest(data: bytearray, dtype: torch.dtype, rounded: torch.dtype) -> float:
    """Largest magnitude in a buffer after rounding to another dtype; infinite if one is not finite."""
    # Rounding is monotonic, so checking minimum and maximum suffices; `aminmax` returns NaN if any
    # value is.
    extremes = torch.stack(torch.frombuffer(data, dtype=dtype).aminmax()).to(rounded)
    return float(extremes.abs().max()) if extremes.isfinite().all() else math.inf


def _check_products(
    tensors: Mapping[str, _Tensor],
    largest: Mapping[str, float],
    config: AdapterConfig,
    rounded: torch.dtype,
) -> None:
    """Checks that no layer's ``scale · B A x`` can overflow for inputs x of a sensible magnitude.

    Args:
        tensors: Pairs of A and B.
        largest: Magnitude of the largest value of all A and of all B.
        config: The adapter's configuration.
        rounded: The engine's dtype.
    """
    allowed = min(torch.finfo(rounded).max, _LARGEST_STEP)

    def reach(sum_of_a: float, largest_b: float, sum_of_products: float) -> float:
        """Largest magnitude of: scale, A x, scale · B, scale · B A x."""
        scale, x = config.scale, _INPUT_MAGNITUDE
        return max(scale, x * sum_of_a, scale * largest_b, scale * x * sum_of_products)

    # A bound as if every value were the largest: trained adapters satisfy it, and it needs no further pass.
    width = max(tensor.shape[1] for tensor in tensors.values())
    sum_of_a = width * largest["A"]
    if reach(sum_of_a, largest["B"], config.r * largest["B"] * sum_of_a) <= allowed:
        return
    for name, tensor in tensors.items():
        module, side = _parse_name(name)
        if side == "B":
            continue
        a = _magnitudes(tensor).sum(dim=1)
        b = _magnitudes(tensors[name.replace(".lora_A.", ".lora_B.")])
        if reach(float(a.max()), float(b.max()), float((b @ a).max())) > allowed:
            raise InvalidAdapter(
                f"{module}: lora_A, lora_B and the scale {config.scale:.3g} of lora_alpha and r can "
                f"overflow {str(rounded).removeprefix('torch.')}: their values are too large",
                ADAPTER_WEIGHTS_FILE,
            )


def _magnitudes(tensor: _Tensor) -> torch.Tensor:
    """A matrix's absolute values in float64, where no product of two overflows."""
    data = torch.frombuffer(bytearray(tensor.data), dtype=tensor.dtype)
    return data.view(tensor.shape).double().abs()


def _check_pairs(
    shapes: Mapping[str, tuple[int, ...]], rank: int, layers: Mapping[str, LinearShape]
) -> None:
    """Checks that the tensors are LoRA pairs A [r, in] and B [out, r] of the base's layers."""
    if not shapes:
        raise InvalidAdapter("the file has no tensors", ADAPTER_WEIGHTS_FILE)
    pairs: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, shape in shapes.items():
        module, side = _parse_name(name)
        pairs[module][side] = shape
    for module, sides in pairs.items():
        layer = layers.get(module)
        if layer is None:
            raise InvalidAdapter(
                f"{module}: the base model has no linear layer of this name", ADAPTER_WEIGHTS_FILE
            )
        expected = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
        for side, shape in expected.items():
            if side not in sides:
                raise InvalidAdapter(f"{module}: lora_{side} is missing", ADAPTER_WEIGHTS_FILE)
            if sides[side] != shape:
                raise InvalidAdapter(
                    f"{module}: lora_{side} has shape {list(sides[side])}, not {list(shape)}",
                    ADAPTER_WEIGHTS_FILE,
                )


def _parse_name(name: str) -> tuple[str, str]:
    """Splits PEFT's tensor name into module name and ``A`` or ``B``."""
    if (found := module_and_side(name)) is None:
        raise InvalidAdapter(
            f"{name}: not a LoRA tensor (base_model.model.MODULE.lora_A.weight or .lora_B.weight)",
            ADAPTER_WEIGHTS_FILE,
        )
    return found
