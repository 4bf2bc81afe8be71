"""How errors look over HTTP: one status code per error class, one JSON shape for every client.

Every error is answered as ``{"error": {"type", "message", "param"}}``. vLLM's own routes answer in
the same shape with one more key, ``code``.
"""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from inference_server.errors import (
    Busy,
    Conflict,
    DeadlineExceeded,
    EngineUnavailable,
    Forbidden,
    InvalidAdapter,
    InvalidRequest,
    NotFound,
    RequestError,
    StorageFull,
    TooLarge,
    Unauthorized,
    UnusableCompletion,
    field_path,
)
from inference_server.http.media_types import JSON, media_type
from inference_server.wire.errors import STATUS_OF_TYPE, ErrorBody, ErrorResponse, ErrorType

# Validation errors that only say that a value has the type of another branch of its union.
_WRONG_BRANCH = frozenset({"string_type", "model_type", "model_attributes_type"})


_TYPES: Mapping[type[RequestError], ErrorType] = {
    InvalidRequest: ErrorType.INVALID_REQUEST,
    InvalidAdapter: ErrorType.INVALID_ADAPTER,
    Unauthorized: ErrorType.UNAUTHORIZED,
    Forbidden: ErrorType.FORBIDDEN,
    NotFound: ErrorType.NOT_FOUND,
    DeadlineExceeded: ErrorType.TIMEOUT,
    Conflict: ErrorType.CONFLICT,
    TooLarge: ErrorType.TOO_LARGE,
    Busy: ErrorType.BUSY,
    StorageFull: ErrorType.STORAGE,
    UnusableCompletion: ErrorType.ENGINE,
    EngineUnavailable: ErrorType.ENGINE,
}
_HEADERS: Mapping[HTTPStatus, Mapping[str, str]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
    HTTPStatus.TOO_MANY_REQUESTS: {"Retry-After": "1"},
}


def error_body(error: RequestError) -> ErrorBody:
    """What the client reads about an error."""
    return ErrorBody(type=_type_of(error).value, message=str(error), param=error.param)


def error_response(error: RequestError) -> JSONResponse:
    """The HTTP response that reports an error."""
    # The engine answers, so it is not unavailable.
    is_unusable = isinstance(error, UnusableCompletion)
    status = HTTPStatus.INTERNAL_SERVER_ERROR if is_unusable else STATUS_OF_TYPE[_type_of(error)]
    return _response(status, error_body(error), _HEADERS.get(status, {}))


def count_error(app: Starlette, body: ErrorBody) -> None:
    """Counts a request that is answered with an error."""
    app.state.regime_w.metrics.rejects.labels(body.type).inc()


async def refuse(
    error: RequestError,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Answers a request with an error from within a middleware; closes a websocket."""
    count_error(scope["app"], error_body(error))
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)})
        return
    response = error_response(error)
    response.headers.update(headers)
    await response(scope, receive, send)


def _type_of(error: RequestError) -> ErrorType:
    # A subclass without an entry of its own is answered as its parent.
    return next(_TYPES[kind] for kind in type(error).__mro__ if kind in _TYPES)


def _response(status: HTTPStatus, body: ErrorBody, headers: Mapping[str, str]) -> JSONResponse:
    content = ErrorResponse(error=body).model_dump()
    return JSONResponse(content, status_code=status, headers=dict(headers))


def _from_validation(error: RequestValidationError, given_type: str) -> InvalidRequest:
    details = error.errors()
    # FastAPI reads a body of another Content-Type, such as the one that curl -d sends, as one string.
    is_unread = details[0]["loc"] == ("body",) and isinstance(error.body, bytes | str)
    if is_unread and "json" not in given_type:
        return InvalidRequest(
            f"the body has the Content-Type {given_type or 'none'}: send the header "
            f"'Content-Type: {JSON}'"
        )
    # For a union, prefer a branch of the value's own type: the others say nothing about what
    # is wrong.
    detail = next((d for d in details if d["type"] not in _WRONG_BRANCH), details[0])
    if detail["type"] == "json_invalid":
        return InvalidRequest(f"the body is not JSON: {detail['ctx']['error']}")
    # The first segment is the part of the request: body, path or query.
    param = field_path(detail["loc"][1:]) or None
    return InvalidRequest(f"{param or 'body'}: {detail['msg']}", param)


class ErrorRoute(APIRoute):
    """A route that answers every error in our shape and counts it.

    vLLM registers its exception handlers on the app after the plugins' routes are attached, and would
    replace a handler of ours for validation errors; it does not replace a route class.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wraps FastAPI's handler."""
        handle = super().get_route_handler()

        async def handle_with_our_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestError as error:
                refusal = error
            except RequestValidationError as error:
                refusal = _from_validation(error, media_type(request.headers))
            count_error(request.app, error_body(refusal))
            return error_response(refusal)

        return handle_with_our_errors


async def answer_unrouted(request: Request, error: Exception) -> Response:
    """Answers Starlette's own 404 and 405, for which vLLM keeps the plain ``detail`` shape."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    kind = ErrorType.NOT_FOUND if status is HTTPStatus.NOT_FOUND else ErrorType.INVALID_REQUEST
    message = f"{request.method} {request.url.path}: {error.detail}"
    return _response(status, ErrorBody(type=kind.value, message=message), error.headers or {})
