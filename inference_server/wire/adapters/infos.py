"""What the server says about the adapter versions that it holds; loads neither torch nor vllm."""

from pydantic import BaseModel, ConfigDict


class AdapterInfo(BaseModel):
    """One adapter version that the server holds."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: int
    name: str
    sha256: str
    rank: int
    size_bytes: int
    active: bool
    num_leases: int
    """Requests in flight on this version, which keep it loaded."""
    created_at: float
    """Unix time of the upload, in seconds."""


class AdapterList(BaseModel):
    """Body of ``GET /v1/adapters``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    active_version: int | None
    adapters: list[AdapterInfo]
