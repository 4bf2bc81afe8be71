"""The streamed answer to an arms request: a line of NDJSON for each `ArmGroup`, and a last one.

Empty lines between them are heartbeats, where the client asked for them.
"""

from pydantic import BaseModel, ConfigDict

from inference_server.wire.schemas import Usage

NDJSON = "application/x-ndjson"
"""Its content type."""


class StreamEnd(BaseModel):
    """Last line of a stream, after one line per `ArmGroup`; an `ErrorResponse` if the request failed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    policy_version: int | None
    """As in `ArmsResponse`."""
    boot_id: str
    usage: Usage
