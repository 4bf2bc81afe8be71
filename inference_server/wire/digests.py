"""SHA-256 digests (64 lowercase hex digits on the wire and on disk), and the request that names an adapter by one."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


def sha256_of_bytes(data: bytes) -> str:
    """Digest of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Digest of a file's content in hex; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class AdapterPath(BaseModel):
    """Body of ``PUT /v1/adapters/{version}`` for files that are already on a volume of the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, max_length=4096)
    """Folder with both files, below the server's ``--adapter-root``; absolute or relative to it."""
    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    """Hex digest of the weights file."""
