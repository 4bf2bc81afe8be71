"""PEFT's ``adapter_config.json``: what the server reads of it, and what it refuses."""

import math
from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from inference_server.errors import InvalidAdapter, field_path
from inference_server.wire.json_text import JsonFlaw, parse_json
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE

# Of PEFT's fields those that, whatever their value, leave a saved adapter's results as they are.
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        # The engine refuses those values that change the base's weights.
        "init_lora_weights",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
_ACCEPTED = "the server accepts plain LoRA without bias, DoRA, saved modules or patterns"
_ALL_LINEAR = "all-linear"


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

    @property
    def scale(self) -> float:
        """The factor on the product of B and A."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @field_validator("target_modules")
    @classmethod
    def _sorted(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        """Sorts the names: PEFT saves a set, whose order differs between two saves of one adapter."""
        if isinstance(value, str):
            if value != _ALL_LINEAR:  # PEFT reads it as a regular expression, which is a client's
                raise ValueError(f"must be a list of names, or {_ALL_LINEAR!r}")
            return value
        return tuple(sorted(value))

    def check_targets(self, modules: Collection[str], layers: Collection[str]) -> None:
        """Checks that `target_modules` names the modules that the weights are of, as PEFT reads it.

        PEFT ignores the weights of any other module, and the engine serves them.

        Args:
            modules: Names of the modules that there are weights of.
            layers: Names of the base's linear layers.

        Raises:
            InvalidAdapter: A module is not named, or a layer of the base is named that has no weights.
        """
        if isinstance(self.target_modules, str):
            return
        for module in modules:
            if not any(_names(target, module) for target in self.target_modules):
                raise InvalidAdapter(
                    f"target_modules: does not name {module}, of which {ADAPTER_WEIGHTS_FILE} has "
                    "weights",
                    ADAPTER_CONFIG_FILE,
                )
        for target in self.target_modules:
            if any(_names(target, layer) for layer in layers) and not any(
                _names(target, module) for module in modules
            ):
                raise InvalidAdapter(
                    f"target_modules: names {target[:100]!r}, of which {ADAPTER_WEIGHTS_FILE} has no "
                    "weights",
                    ADAPTER_CONFIG_FILE,
                )

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _none_if_empty(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        return value or None


def _names(target: str, module: str) -> bool:
    return module == target or module.endswith(f".{target}")


def read_config(config_json: bytes) -> AdapterConfig:
    """Reads the file's content.

    Any field that is neither read nor known to be without effect must be unset, also one of a PEFT that
    does not exist yet: the engine ignores it, and would serve another adapter than the one trained.

    Raises:
        InvalidAdapter: It is malformed, or asks for more than plain LoRA; names the field.
    """
    try:
        config = AdapterConfig.model_validate_json(config_json)
    except ValidationError as error:
        first = error.errors()[0]
        field = field_path(first["loc"])
        # For an unsupported feature, pydantic's message only names the value that was expected.
        reason = f"{field}: {first['msg']}" if field else first["msg"]
        if field and first["type"] != "missing":
            reason += f"; {_ACCEPTED}"
        raise InvalidAdapter(reason, ADAPTER_CONFIG_FILE) from error
    try:
        given = parse_json(config_json)
    except JsonFlaw as error:
        raise InvalidAdapter(str(error), ADAPTER_CONFIG_FILE) from error
    for name, value in given.items():
        is_read = name in AdapterConfig.model_fields or name in _WITHOUT_EFFECT
        # Not just falsy: `layers_to_transform: 0` is the first layer alone.
        is_unset = value is None or value is False or value in ("", [], {})
        if not (is_read or is_unset):
            raise InvalidAdapter(f"{name[:100]}: must be unset; {_ACCEPTED}", ADAPTER_CONFIG_FILE)
    return config
