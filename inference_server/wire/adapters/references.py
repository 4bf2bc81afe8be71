"""How a request names an adapter: by its version's number, or by its path on a volume of the server."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt

NUM_VERSIONS = 10**9
"""Versions are numbered from 0 to one less."""
VersionNumber = Annotated[StrictInt, Field(ge=0, lt=NUM_VERSIONS)]


class AdapterPath(BaseModel):
    """Body of ``PUT /v1/adapters/{version}`` for files that are already on a volume of the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, max_length=4096)
    """Folder with both files, below the server's ``--adapter-root``; absolute or relative to it."""
    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    """Hex digest of the weights file."""
