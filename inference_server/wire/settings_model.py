"""What all settings have in common, the server's and the trainer's."""

from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

NULL = "null"
"""How None is written where only text or a TOML value can stand; ``None`` is read too."""
_INT_BITS = 64
"""What a number of PyTorch's, NumPy's and the engine's holds; the sign is one."""


class SettingsModel(BaseModel):
    """A table of settings: unknown keys are errors, and ``null`` is None where a key may be None.

    NaN, infinity, ``true`` and whole numbers beyond 64 bits are errors wherever a number belongs.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _read_null(cls, given: Any) -> Any:
        """A flag, a variable and TOML have no value for None."""
        if not isinstance(given, dict):
            return given
        return {
            key: None
            if value in (NULL, "None")
            and key in cls.model_fields
            and NoneType in get_args(cls.model_fields[key].annotation)
            else value
            for key, value in given.items()
        }

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_is_a_number(cls, given: Any, info: ValidationInfo) -> Any:
        """Python, and so pydantic, takes ``true`` for 1."""
        kinds = list(_kinds(cls.model_fields[info.field_name or ""].annotation))
        takes_numbers = (int in kinds or float in kinds) and bool not in kinds
        if takes_numbers and any(isinstance(value, bool) for value in _values(given)):
            raise ValueError("must be a number, not true or false")
        return given

    @field_validator("*")
    @classmethod
    def _whole_numbers_are_of_64_bits(cls, value: Any) -> Any:
        for number in _values(value):
            if isinstance(number, int) and number.bit_length() >= _INT_BITS:
                raise ValueError(f"must be below 2^{_INT_BITS - 1}")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of."""
    parts = get_args(annotation)
    if not parts:
        yield annotation
    for part in parts:
        yield from _kinds(part)


def _values(given: Any) -> Iterator[Any]:
    """A value, or those in the lists and tables that it is made of."""
    if isinstance(given, list | tuple):
        for part in given:
            yield from _values(part)
    elif isinstance(given, dict):
        for part in given.values():
            yield from _values(part)
    else:
        yield given
