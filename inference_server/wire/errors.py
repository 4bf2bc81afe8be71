"""What the server answers when something is wrong: its JSON, its types, and the status of each.

An error that ends a stream is a line of an answer of status 200, so its type has to say which status it would have had.
"""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus

from inference_server.wire.bodies import ResponseBody


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
    STORAGE = "storage"
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
    ErrorType.STORAGE: HTTPStatus.INSUFFICIENT_STORAGE,
    ErrorType.ENGINE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorType.STARTING: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status of an answer with an error of this type."""


class ErrorBody(ResponseBody):
    """What went wrong: a type for programs, a message for people."""

    type: str
    message: str
    param: str | None = None


class ErrorResponse(ResponseBody):
    """Body of every response with status 4xx or 5xx."""

    error: ErrorBody
