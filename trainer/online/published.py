"""A version as the server has confirmed it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version that the server has confirmed."""

    version: int
    folder: Path
    sha256: str
    """Digest of its weights file."""
    activated: bool = True
    """Whether the server's ``policy`` name was moved to it."""
