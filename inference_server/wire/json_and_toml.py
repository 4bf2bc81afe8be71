"""Reads JSON and TOML that others have written.

JSON that parsers read differently is refused: a key given twice, for which each parser picks a value, and NaN and
infinity, which JSON does not have and which only some parsers read as numbers.
"""

import json
import re
import tomllib
from collections import Counter
from typing import Any, NoReturn

_SHOWN_CHARS = 100
_VALUES_IN_TOML = {
    "null": '"null"',
    "none": '"null"',
    "nil": '"null"',
    "true": "true",
    "false": "false",
}
"""Values of other languages in lower case, and what stands for them in a TOML file of ours."""
_FOREIGN_VALUE = re.compile(rf"({'|'.join(_VALUES_IN_TOML)})\s*(?:[,\]}}#]|$)", re.IGNORECASE)
_PLACE_IN_REASON = re.compile(r"\(at line (\d+), column (\d+)\)")


class JsonFlaw(ValueError):
    """A JSON text that only some parsers accept, or that parsers read differently."""

    def __init__(self, key: str | None, reason: str):
        """Keep the key at fault, cut if it is long; None if the flaw is in no object."""
        self.key = None if key is None else key[:_SHOWN_CHARS]
        super().__init__(f"{'a value' if self.key is None else repr(self.key)} {reason}")


def parse_json(text: bytes | str, **options: Any) -> Any:
    """The value of a text, as `json.loads` with the same options.

    Raises:
        JsonFlaw: An object has a key twice, or a value is NaN or infinite.
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_NotJson.refuse, **options
        )
    except _NotJson as error:
        # Parsed again to find the key: the hook that refuses a constant does not know where it is.
        json.loads(text, object_pairs_hook=_without_constants, parse_constant=_NotJson, **options)
        raise JsonFlaw(None, str(error)) from None


def parse_toml(data: bytes) -> dict[str, Any]:
    """The tables of a TOML file, with or without the byte order mark that editors put before UTF-8.

    Raises:
        ValueError: It is not TOML, or Python's parser cannot read it; says what is wrong in one line.
    """
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"not UTF-8 (at line {line}); save the file as UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{error}{_meant_value(data.decode('utf-8-sig'), str(error))}") from None


def _meant_value(text: str, reason: str) -> str:
    """How TOML writes a value of another language at the place that the reason names; empty for others."""
    if found := _PLACE_IN_REASON.search(reason):
        line = text.split("\n")[int(found[1]) - 1]
        foreign = _FOREIGN_VALUE.match(line, int(found[2]) - 1)
        if foreign and (ours := _VALUES_IN_TOML[foreign[1].lower()]) != foreign[1]:
            return f"; TOML has no {foreign[1]}: write {ours}"
    return ""


def check_flaws(text: bytes | str) -> None:
    """Refuse JSON that parsers read differently; a text that is not JSON at all is left to its reader.

    Raises:
        JsonFlaw: Names the key.
    """
    try:
        parse_json(text)
    except JsonFlaw:
        raise
    except (ValueError, RecursionError):
        return


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise JsonFlaw(key, "is given twice")
    return found


class _NotJson(ValueError):
    """``NaN``, ``Infinity`` or ``-Infinity``, where a value belongs."""

    def __init__(self, constant: str):
        super().__init__(f"is {constant}, which JSON does not have")

    @classmethod
    def refuse(cls, constant: str) -> NoReturn:
        raise cls(constant)


def _without_constants(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, value in pairs:
        items = [value]
        while items:
            item = items.pop()
            if isinstance(item, _NotJson):
                raise JsonFlaw(key, str(item))
            if isinstance(item, list):
                items.extend(item)
    return dict(pairs)
