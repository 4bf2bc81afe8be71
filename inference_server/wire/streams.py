"""The streamed answer to an arms request: a line of NDJSON for each `ArmGroup`, and a last one.

If the client asked for them, there is also a line for each completion, before its group's, and empty lines are
heartbeats. An error after the start is the last line of an answer of status 200, so its type has to say which
status it would have had.
"""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict

from inference_server.wire.schemas import ArmCompletion, Usage

NDJSON = "application/x-ndjson"
"""Content type of the answer."""


class ErrorType(StrEnum):
    """Value of ``error.type``; see the classes in `inference_server.errors` for the meanings."""

    INVALID_REQUEST = "invalid_request"
    INVALID_ADAPTER = "invalid_adapter"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    TIMEOUT = "timeout"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    BUSY = "busy"
    ENGINE = "engine"
    STARTING = "starting"
    """No server yet; see `inference_server.launch.starting`."""


STATUS_OF_TYPE: Mapping[str, HTTPStatus] = {
    ErrorType.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorType.INVALID_ADAPTER: HTTPStatus.BAD_REQUEST,
    ErrorType.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    ErrorType.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorType.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorType.TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    ErrorType.CONFLICT: HTTPStatus.CONFLICT,
    ErrorType.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorType.BUSY: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorType.ENGINE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorType.STARTING: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status of an answer with an error of this type."""


class StreamedCompletion(BaseModel):
    """A completion that is finished before its group is."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    """Id of the question."""
    policy_version: int | None
    """The version of its group."""
    completion: ArmCompletion


class StreamEnd(BaseModel):
    """Last line of a stream, after one line per `ArmGroup`; an `ErrorResponse` if the request failed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    policy_version: int | None
    """As in `ArmsResponse`."""
    boot_id: str
    usage: Usage
