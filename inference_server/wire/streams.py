"""The streamed answer to an arms request: a line of NDJSON for each `ArmGroup`, and a last one.

If the client asked for them, there is also a line for each completion, before its group's, and empty lines are
heartbeats. An error after the start is the last line of an answer of status 200.
"""

from inference_server.wire.bodies import ResponseBody
from inference_server.wire.schemas import ArmCompletion, Usage

NDJSON = "application/x-ndjson"
"""Content type of the answer."""


class StreamedCompletion(ResponseBody):
    """A completion that is finished before its group is."""

    id: str
    """Id of the question."""
    policy_version: int | None
    """The version of its group."""
    completion: ArmCompletion


class StreamEnd(ResponseBody):
    """Last line of a stream, after one line per `ArmGroup`; an `ErrorResponse` if the request failed."""

    policy_version: int | None
    """As in `ArmsResponse`."""
    boot_id: str
    usage: Usage
