"""PEFT's ``adapter_config.json``: which parts server and trainer apply, and which both refuse."""

import math
from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from inference_server.wire.json_and_toml import JsonFlaw, parse_json

_PEFT_PREFIX = "base_model.model."
_ALL_LINEAR = "all-linear"
_APPLIED = (
    "the server and the trainer apply plain LoRA without bias, DoRA, saved modules or patterns"
)
_SHOWN_CHARS = 100


class AdapterConfigError(ValueError):
    """A configuration that cannot be applied."""

    def __init__(self, reason: str, field: str | None = None, value: object = None):
        """Keep what is wrong.

        Args:
            reason: What is wrong, and the fix.
            field: The field at fault; None if no single one is.
            value: The field's value, if the configuration gives one.
        """
        super().__init__(reason if field is None else f"{field}: {reason}")
        self.reason, self.field, self.value = reason, field, value


class AdapterConfig(BaseModel):
    """The part of ``adapter_config.json`` that determines what an adapter computes.

    Equal configurations with equal weights are the same adapter.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)

    peft_type: Literal["LORA"]
    r: int = Field(ge=1, le=1_000_000)
    lora_alpha: float = Field(gt=0)
    target_modules: tuple[str, ...] | str
    exclude_modules: tuple[str, ...] | str | None = None
    use_rslora: bool = False
    bias: Literal["none"] = "none"
    lora_bias: Literal[False] = False
    use_dora: Literal[False] = False
    use_qalora: Literal[False] = False
    modules_to_save: tuple[()] | None = None
    # Their keys are regular expressions over module names: the engine would run a client's pattern.
    rank_pattern: dict[str, int] | None = Field(default=None, max_length=0)
    alpha_pattern: dict[str, float] | None = Field(default=None, max_length=0)

    @property
    def scale(self) -> float:
        """The factor on the product of B and A."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @field_validator("target_modules")
    @classmethod
    def _sorted(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        """Sorts the names: PEFT saves a set, whose order differs between two saves of one adapter."""
        if isinstance(value, str):
            if value != _ALL_LINEAR:  # PEFT would read a client's text as a regular expression
                raise ValueError(f"must be a list of names, or {_ALL_LINEAR!r}")
            return value
        return tuple(sorted(value))

    @field_validator("exclude_modules")
    @classmethod
    def _sorted_names(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | None:
        if value and isinstance(value, str):
            raise ValueError("must be a list of names, or unset")
        return tuple(sorted(value)) if value else None

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _none_if_empty(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        return value or None

    def check_modules(self, modules: Collection[str], layers: Collection[str]) -> None:
        """Checks that the configuration, as PEFT reads it, names exactly the modules that have weights.

        PEFT ignores the weights of any other module, but the engine serves them.

        Args:
            modules: Names of the modules that have weights.
            layers: Names of the base's linear layers.

        Raises:
            AdapterConfigError: A module with weights is excluded or not named, or a layer of the base that
                has no weights is named.
        """
        targets, excluded = self.target_modules, frozenset(self.exclude_modules or ())
        names = frozenset(() if isinstance(targets, str) else targets)

        def named(module: str) -> str | None:
            if targets == _ALL_LINEAR:
                # The one without a dot in its name is the output layer, which PEFT leaves out.
                return _ALL_LINEAR if "." in module else None
            return _suffix_in(names, module)

        for module in modules:
            if name := _suffix_in(excluded, module):
                raise AdapterConfigError(
                    f"excludes {module}, of which there are weights; remove the name, or the weights",
                    "exclude_modules",
                    name,
                )
            if not named(module):
                raise AdapterConfigError(
                    f"does not name {module}, of which there are weights", "target_modules", targets
                )
        for layer in layers:
            name = None if _suffix_in(excluded, layer) else named(layer)
            if name and layer not in modules:
                raise AdapterConfigError(
                    f"names {name[:_SHOWN_CHARS]!r}, but there are no weights of {layer}",
                    "target_modules",
                    targets,
                )


class _WithoutEffect(BaseModel):
    """PEFT's other fields, with the values that leave a saved adapter's results as they are."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    auto_mapping: dict[str, Any] | None = None
    base_model_name_or_path: str | None = None
    inference_mode: bool | None = None
    init_lora_weights: bool | str | None = None
    lora_dropout: float | None = Field(default=None, ge=0, le=1)
    megatron_core: str | None = None
    peft_version: str | None = None
    qalora_group_size: int | None = None
    revision: str | None = None
    runtime_config: dict[str, Any] | None = None
    task_type: Literal["CAUSAL_LM"] | None = None

    @field_validator("init_lora_weights")
    @classmethod
    def _plain(cls, value: bool | str | None) -> bool | str | None:
        if isinstance(value, str) and value not in ("gaussian", "orthogonal"):
            raise ValueError(
                "must be true, false, 'gaussian' or 'orthogonal': others presuppose a changed base (pissa, "
                "olora, corda, loftq, lora_ga), of which PEFT's path_initial_model_for_weight_conversion "
                "saves plain LoRA, or change nothing of a saved adapter (eva), where true is as good"
            )
        return value


def read_config(content: bytes) -> AdapterConfig:
    """Reads the file's content.

    Any field that is neither read nor known to be without effect must be unset, also one of a future
    version of PEFT: the engine would ignore it and serve another adapter than the one trained.

    Raises:
        AdapterConfigError: It is malformed, or asks for more than plain LoRA; names the field.
    """
    given = parsed_config(content)
    try:
        config = AdapterConfig.model_validate_json(content)
        _WithoutEffect.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # half a character or deep nesting, which Python's parser accepts
            raise AdapterConfigError(f"not JSON: {first['msg']}") from None
        field = str(first["loc"][0])
        is_missing = first["type"] == "missing"
        # For an unsupported feature, pydantic's message only names the value that was expected.
        reason = first["msg"] if is_missing else f"{first['msg']}; {_APPLIED}"
        raise AdapterConfigError(reason, field, given.get(field)) from None
    known = AdapterConfig.model_fields.keys() | _WithoutEffect.model_fields.keys()
    for name, value in given.items():
        # Not just falsy: `layers_to_transform: 0` selects only the first layer.
        is_unset = value is None or value is False or value in ("", [], {})
        if name not in known and not is_unset:
            raise AdapterConfigError(f"must be unset; {_APPLIED}", name[:_SHOWN_CHARS], value)
    return config


def parsed_config(content: bytes) -> dict[str, Any]:
    """The file's content, parsed as JSON.

    Raises:
        AdapterConfigError: It is not a JSON object, has a key twice, or is not a LoRA adapter's.
    """
    try:
        given = parse_json(content.decode())
    except RecursionError:
        raise AdapterConfigError("not JSON: nested too deeply") from None
    except JsonFlaw as error:
        raise AdapterConfigError(str(error)) from None
    except ValueError as error:
        raise AdapterConfigError(f"not JSON: {error}") from None
    if not isinstance(given, dict):
        raise AdapterConfigError("not a LoRA adapter's: it is not an object")
    if (kind := given.get("peft_type")) != "LORA":
        raise AdapterConfigError("not a LoRA adapter", "peft_type", kind)
    return given


def module_and_side(tensor: str) -> tuple[str, str] | None:
    """The module of a tensor in PEFT's file, and ``A`` or ``B``; None if it is not a LoRA matrix."""
    for side in ("A", "B"):
        suffix = f".lora_{side}.weight"
        if tensor.startswith(_PEFT_PREFIX) and tensor.endswith(suffix):
            return tensor.removeprefix(_PEFT_PREFIX).removesuffix(suffix), side
    return None


def _suffix_in(names: Collection[str], module: str) -> str | None:
    """The one of ``names`` that is a module's whole name or its last parts, as PEFT matches names."""
    parts = module.split(".")
    suffixes = (".".join(parts[start:]) for start in range(len(parts)))
    return next((suffix for suffix in suffixes if suffix in names), None)
