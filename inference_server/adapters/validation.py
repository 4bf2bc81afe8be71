"""Checks whether adapter files can be served: configuration, tensor names, shapes and values.

Needs no engine, only its traits.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError, deserialize

from inference_server.adapters.storage import StagedAdapter
from inference_server.engine import EngineTraits, LinearShape
from inference_server.errors import InvalidAdapter, field_path
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE

_PEFT_PREFIX = "base_model.model."
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class AdapterConfig(BaseModel):
    """The part of PEFT's ``adapter_config.json`` that determines what an adapter computes.

    Equal configurations with equal weights are the same adapter. Fields that do not affect inference
    (dropout, initialisation, paths) are ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)

    peft_type: Literal["LORA"]
    r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    target_modules: tuple[str, ...] | str
    use_rslora: bool = False
    bias: Literal["none"] = "none"
    lora_bias: Literal[False] = False
    use_dora: Literal[False] = False
    use_qalora: Literal[False] = False
    modules_to_save: tuple[()] | None = None
    # Their keys are regular expressions over module names: the engine would run a client's pattern.
    rank_pattern: dict[str, int] | None = Field(default=None, max_length=0)
    alpha_pattern: dict[str, float] | None = Field(default=None, max_length=0)

    @field_validator("target_modules")
    @classmethod
    def _sorted(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        """Sorts the names: PEFT saves a set, whose order differs between two saves of one adapter."""
        return value if isinstance(value, str) else tuple(sorted(value))

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _none_if_empty(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        return value or None


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
    config = _read_config(staged.config_json)
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
    _check_values(tensors, traits.lora_dtype)
    return config


def _read_config(config_json: bytes) -> AdapterConfig:
    try:
        return AdapterConfig.model_validate_json(config_json)
    except ValidationError as error:
        first = error.errors()[0]
        field = field_path(first["loc"])
        # For an unsupported feature, pydantic's message only names the value that was expected.
        reason = f"{field}: {first['msg']}" if field else first["msg"]
        if field and first["type"] != "missing":
            reason += (
                "; the server accepts plain LoRA without bias, DoRA, saved modules or patterns"
            )
        raise InvalidAdapter(reason, ADAPTER_CONFIG_FILE) from error


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


def _check_values(tensors: Mapping[str, _Tensor], lora_dtype: str) -> None:
    """Checks that every value is finite after the engine's rounding.

    A finite float32 value can be infinite in float16.
    """
    rounded = getattr(torch, lora_dtype)
    by_dtype: dict[torch.dtype, list[bytes]] = defaultdict(list)
    for tensor in tensors.values():
        by_dtype[tensor.dtype].append(tensor.data)
    # All tensors at once; the name is looked up only if one fails.
    if all(_is_finite(bytearray().join(data), dtype, rounded) for dtype, data in by_dtype.items()):
        return
    name = next(
        n for n, t in tensors.items() if not _is_finite(bytearray(t.data), t.dtype, rounded)
    )
    raise InvalidAdapter(
        f"{name}: has values that are not finite in {lora_dtype}", ADAPTER_WEIGHTS_FILE
    )


def _is_finite(data: bytearray, dtype: torch.dtype, rounded: torch.dtype) -> bool:
    """Whether every value of a buffer is finite after rounding to another dtype."""
    # Rounding is monotonic, so checking minimum and maximum suffices; `aminmax` returns NaN if any is.
    extremes = torch.stack(torch.frombuffer(data, dtype=dtype).aminmax()).to(rounded)
    return bool(extremes.isfinite().all())


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
    for side in ("A", "B"):
        suffix = f".lora_{side}.weight"
        if name.startswith(_PEFT_PREFIX) and name.endswith(suffix):
            return name.removeprefix(_PEFT_PREFIX).removesuffix(suffix), side
    raise InvalidAdapter(
        f"{name}: not a LoRA tensor ({_PEFT_PREFIX}MODULE.lora_A.weight or .lora_B.weight)",
        ADAPTER_WEIGHTS_FILE,
    )
