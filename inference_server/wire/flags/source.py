"""pydantic-settings' parser, with lists as users of a shell expect them and help in plain words."""

import json
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import CliSettingsSource
from pydantic_settings import SettingsError as SourceError

from inference_server.wire.json_and_toml import parse_json
from inference_server.wire.settings.model import NULL, NULLS, is_list, is_of_text, is_secret

LISTS = (
    """A LIST is JSON, such as '["a", "b"]' ("\\n" in it is a line break), or one item as it is, with its commas;\n"""
    "the flag may be given several times."
)
"""What help says about lists."""


class FlagSource(CliSettingsSource[Any]):
    """Reads flags; a list is given as JSON or as one item, which is never divided at its commas."""

    def _merge_parsed_list(self, parsed_list: list[str], field_name: str) -> str:
        """All items given with a flag, as the JSON from which its field is read."""
        argument = self._parser_map.get(field_name, {}).get(None)
        annotation = argument and argument.field_info.annotation
        if annotation is None or not is_list(annotation):
            return super()._merge_parsed_list(parsed_list, field_name)
        found: list[Any] = []
        for text in parsed_list:
            found += _items(text, of_text=is_of_text(annotation), key=field_name)
        return json.dumps(found)

    def _metavar_format(self, obj: Any) -> str:
        """What help shows for a value of this type."""
        if is_list(obj):
            return "LIST"
        return "str" if is_secret(obj) else super()._metavar_format(obj)

    def _help_format(
        self,
        field_name: str,
        field_info: FieldInfo,
        model_default: Any,
        is_model_suppressed: bool,
        env_var_names: tuple[str, ...] = (),
    ) -> str:
        """The meaning of a flag, and its default as one would write it."""
        # A section's default may read the environment; a wrong value there is reported only once it is needed.
        kind = field_info.annotation
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        default = (
            field_info.default
            if is_section
            else field_info.get_default(call_default_factory=True, validated_data={})
        )
        if isinstance(model_default, BaseModel):
            default = getattr(model_default, field_name)
        is_shown = not is_model_suppressed and not self._is_field_suppressed(field_info)
        if not is_shown or default is PydanticUndefined:
            return super()._help_format(
                field_name, field_info, model_default, is_model_suppressed, env_var_names
            )
        text = field_info.description or ""
        if not is_secret(field_info.annotation):
            text += f" (default: {_as_written(default)})"
        return text.strip().replace("%", "%%")


def _as_written(value: object) -> str:
    """A default as one would give it to a flag; tables that have names are shown by them."""
    if value is None:
        return NULL
    if isinstance(value, tuple | list):
        return json.dumps([getattr(item, "name", item) for item in value], ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.value if isinstance(value, Enum) else value) or "empty"


def _items(text: str, *, of_text: bool, key: str) -> list[Any]:
    """The items of one use of a flag.

    Raises:
        SourceError: The text begins like a list in JSON but is not one.
    """
    if text in NULLS:
        return [None]
    start = text.lstrip()
    if not start.startswith(("[", '"') if of_text else ("[", '"', "{")):
        return [text]
    try:
        # Numbers stay as they were written: a choice may be a number, and is shown as written.
        value = parse_json(text, **({"parse_int": str, "parse_float": str} if of_text else {}))
    except (ValueError, RecursionError):
        if start[1:].lstrip().startswith(('"', "{")) and start.startswith("["):
            raise SourceError(
                f'--{key}: begins like a list in JSON but is not one; write it as \'["a", "b"]\''
            ) from None
        return [text]
    return value if isinstance(value, list) else [value]
