"""Digests of what a run learns from, in order, as a file of its folder keeps them for the next start to compare with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from inference_server.wire.digests import sha256_of_bytes

_T = TypeVar("_T")
_HEX_DIGITS = 8


def short_digest(content: bytes) -> str:
    """The digest of one item."""
    return sha256_of_bytes(content)[:_HEX_DIGITS]


def recorded(path: Path) -> object:
    """What a record holds; None if there is none, or if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def differing(names: Sequence[_T], then: Sequence[str], now: Sequence[str]) -> list[_T]:
    """The names of the items whose digest has changed, among those that there were and are."""
    return [name for name, old, new in zip(names, then, now, strict=False) if old != new]
