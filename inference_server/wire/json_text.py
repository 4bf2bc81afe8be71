"""JSON that others have written: a key given twice is an error, as parsers differ in which of its values they take."""

import json
from collections import Counter
from typing import Any


class DuplicateKey(ValueError):
    """An object has a key twice."""

    def __init__(self, key: str):
        """Keep the key, the start of it where it is long."""
        self.key = key[:100]
        super().__init__(f"{self.key!r} is given twice")


def parse_json(text: bytes | str, **options: Any) -> Any:
    """The value of a text, as `json.loads` with the same options.

    Raises:
        DuplicateKey: An object has a key twice.
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique, **options)


def check_unique_keys(text: bytes | str) -> None:
    """Refuse a key that is given twice; what is no JSON is left to its reader.

    Raises:
        DuplicateKey: Names the key.
    """
    try:
        parse_json(text)
    except DuplicateKey:
        raise
    except (ValueError, RecursionError):
        return


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise DuplicateKey(key)
    return found
