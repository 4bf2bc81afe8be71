"""The parser of pydantic-settings with lists as a shell's user expects them."""

import json
from typing import Any

from pydantic_settings import CliSettingsSource
from pydantic_settings import SettingsError as SourceError

from inference_server.wire.json_text import parse_json
from inference_server.wire.settings_model import NULLS, is_list, is_of_text

LISTS = (
    """A LIST is JSON, such as '["a", "b"]' ("\\n" in it is a line break), or one item as it is, with its commas;\n"""
    "the flag may be given several times."
)
"""What help says of lists."""


class FlagSource(CliSettingsSource[Any]):
    """Reads flags; a list is JSON, or one item, which is never divided at its commas."""

    def _merge_parsed_list(self, parsed_list: list[str], field_name: str) -> str:
        """What a flag gave in all, as the JSON that its field is read from."""
        argument = self._parser_map.get(field_name, {}).get(None)
        annotation = argument and argument.field_info.annotation
        if annotation is None or not is_list(annotation):
            return super()._merge_parsed_list(parsed_list, field_name)
        found: list[Any] = []
        for text in parsed_list:
            found += _items(text, of_text=is_of_text(annotation), key=field_name)
        return json.dumps(found)


def _items(text: str, *, of_text: bool, key: str) -> list[Any]:
    """The items of one use of a flag.

    Raises:
        SourceError: The text begins as a list in JSON does, and is none.
    """
    if text in NULLS:
        return [None]
    start = text.lstrip()
    if not start.startswith(("[", '"') if of_text else ("[", '"', "{")):
        return [text]
    try:
        # A choice may be a number, and is shown as it was written.
        value = parse_json(text, **({"parse_int": str, "parse_float": str} if of_text else {}))
    except (ValueError, RecursionError):
        if start[1:].lstrip().startswith(('"', "{")) and start.startswith("["):
            raise SourceError(
                f'--{key}: begins as a list in JSON and is none; write it as \'["a", "b"]\''
            ) from None
        return [text]
    return value if isinstance(value, list) else [value]
