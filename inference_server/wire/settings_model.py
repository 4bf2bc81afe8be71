"""What all settings have in common, the server's and the trainer's."""

from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator

NULL = "null"
"""How None is written where only text or a TOML value can stand; ``None`` is read too."""


class SettingsModel(BaseModel):
    """A table of settings: unknown keys are errors, and ``null`` is None where a key may be None.

    NaN and infinity are errors wherever a number belongs.
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
