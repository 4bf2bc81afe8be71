"""The streamed answer to an arms request: a line of NDJSON for each `ArmGroup`, and a last one.

Where the client asked for them, there is a line for each completion too, ahead of its group's, and empty
lines are heartbeats.
"""

from pydantic import BaseModel, ConfigDict

from inference_server.wire.schemas import ArmCompletion, Usage

NDJSON = "application/x-ndjson"
"""Its content type."""


class StreamedCompletion(BaseModel):
    """A completion that is finished before its group is."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    """The question's."""
    policy_version: int | None
    """That of its group."""
    completion: ArmCompletion


class StreamEnd(BaseModel):
    """Last line of a stream, after one line per `ArmGroup`; an `ErrorResponse` if the request failed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    policy_version: int | None
    """As in `ArmsResponse`."""
    boot_id: str
    usage: Usage
