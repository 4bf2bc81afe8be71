"""The request that names an adapter on a volume of the server."""

from pydantic import BaseModel, ConfigDict, Field


class AdapterPath(BaseModel):
    """Body of ``PUT /v1/adapters/{version}`` for files that are already on a volume of the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, max_length=4096)
    """Folder with both files, below the server's ``--adapter-root``; absolute or relative to it."""
    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    """Hex digest of the weights file."""
