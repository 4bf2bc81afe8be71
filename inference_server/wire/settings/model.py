"""What all settings have in common, the server's and the trainer's."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import CliPositionalArg

NULL = "null"
"""How None is written where only text or a TOML value can stand; ``None`` is read too."""
NULLS = (NULL, "None")
"""All texts that are read as None."""
_INT_BITS = 64
"""Bits of an integer in PyTorch, NumPy and the engine, the sign included."""


class SettingsModel(BaseModel):
    """A table of settings: unknown keys are errors, and ``null`` is None where a key may be None.

    NaN, infinity, ``true`` and whole numbers beyond 64 bits are errors wherever a number belongs, and an empty
    text wherever a text or a path does.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        # A command uses only a few of the models that its program imports.
        defer_build=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _read_null(cls, given: Any) -> Any:
        """A flag, a variable and TOML have no value for None."""
        if not isinstance(given, dict):
            return given
        return {
            key: None
            if value in NULLS
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

    @field_validator("*", mode="before")
    @classmethod
    def _no_text_is_empty(cls, given: Any, info: ValidationInfo) -> Any:
        """An empty path would be the working directory."""
        kinds = set(_kinds(cls.model_fields[info.field_name or ""].annotation))
        for text in given if isinstance(given, list | tuple) else [given]:
            is_blank = isinstance(text, str) and not (text.strip() if Path in kinds else text)
            if is_blank and kinds & {str, Path}:
                raise ValueError("must not be blank")
        return given

    @field_validator("*")
    @classmethod
    def _whole_numbers_are_of_64_bits(cls, value: Any) -> Any:
        for number in _values(value):
            if isinstance(number, int) and number.bit_length() >= _INT_BITS:
                raise ValueError(f"must be below 2^{_INT_BITS - 1}")
        return value


def takes_json(model: type[BaseModel], key: str) -> bool:
    """Whether a key's value is a table or a list."""
    annotation = _annotation(model, key)
    is_table = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return is_table or is_list(annotation) or _has_origin(annotation, dict)


def is_switch(model: type[BaseModel], key: str) -> bool:
    """Whether a key's value is true or false."""
    return {kind for kind in _kinds(_annotation(model, key)) if isinstance(kind, type)} == {bool}


def positionals(model: type[BaseModel]) -> frozenset[str]:
    """Keys whose values stand on a command line without a flag."""
    mark = get_args(CliPositionalArg[str])[1]
    return frozenset(name for name, field in model.model_fields.items() if mark in field.metadata)


def _annotation(model: type[BaseModel], key: str) -> Any:
    """The type of a key such as ``ppo.kl_coef``; None where there is no such key."""
    name, _, below = key.partition(".")
    fields = {f.validation_alias or name: f for name, f in model.model_fields.items()}
    annotation = fields[name].annotation if name in fields else None
    if below and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _annotation(annotation, below)
    return annotation


def is_list(annotation: Any) -> bool:
    """Whether a field of this type holds a list."""
    return _has_origin(annotation, tuple, list)


def is_of_text(annotation: Any) -> bool:
    """Whether a list's items are texts, and neither numbers nor tables."""
    return {kind for kind in _kinds(annotation) if isinstance(kind, type)} - {NoneType} == {str}


def is_secret(annotation: Any) -> bool:
    """Whether a field's value is not to be shown."""
    return SecretStr in _kinds(annotation)


def _has_origin(annotation: Any, *origins: type) -> bool:
    # An optional type is a union of the type and None.
    return any(get_origin(part) in origins for part in (annotation, *get_args(annotation)))


def mistaken_types(
    model: type[BaseModel], given: Mapping[str, Any]
) -> Iterator[tuple[str, str, Any]]:
    """Yields each value of a file whose type is not its key's: the dotted key, what is wrong, and the value.

    Flags and variables are texts, so a model reads texts as numbers; a file has numbers of its own.
    """
    for key, value in given.items():
        field = model.model_fields.get(key)
        inner = None if field is None else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if isinstance(value, Mapping):
                for below, flaw, at_fault in mistaken_types(inner, value):
                    yield f"{key}.{below}", flaw, at_fault
        elif field is not None:
            kinds = set(_kinds(inner))
            for each in _values(value):
                if reason := _mistaken(kinds, each):
                    yield key, reason, each


def _mistaken(kinds: Collection[Any], value: Any) -> str | None:
    """What is wrong with a value's type, in words; other flaws are left to validation."""
    types = {kind for kind in kinds if isinstance(kind, type)}
    takes_numbers = not types.isdisjoint((int, float))
    if isinstance(value, str):
        is_null = value in NULLS and NoneType in types
        if is_null or not types <= {int, float, bool, NoneType} or _literals(kinds):
            return None
        return f"must be {'a number' if takes_numbers else 'true or false'}, without quotes"
    if isinstance(value, int | float) and bool in types and not takes_numbers:
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(value, float) and int in types and float not in types:
        return "must be a whole number"
    return None


def _literals(kinds: Collection[Any]) -> list[str]:
    return [kind for kind in kinds if isinstance(kind, str)]


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
