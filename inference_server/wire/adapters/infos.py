"""What the server says about the adapter versions that it holds; loads neither torch nor vllm."""

from inference_server.wire.bodies import ResponseBody


class AdapterInfo(ResponseBody):
    """One adapter version that the server holds."""

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


class AdapterList(ResponseBody):
    """Body of ``GET /v1/adapters``."""

    active_version: int | None
    adapters: list[AdapterInfo]
