"""Errors of our routes, and the one shape in which every client sees them.

``ApiError`` is what the code raises; ``ErrorRoute`` turns it, and FastAPI's own validation
errors, into ``{"error": {"type", "message", "param"}}``. vLLM's routes answer in the same shape
with one more key, ``code``.
"""

from collections.abc import Callable, Coroutine, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from inference_server.engine import EngineDied
from inference_server.wire.schemas import ErrorBody, ErrorResponse

# Segments of a pydantic location that name a branch of a union rather than a field of the body.
_NOT_A_FIELD = frozenset({"str", "int", "float", "bool"})
_WRONG_BRANCH = frozenset({"string_type", "model_type", "model_attributes_type"})


class ErrorType(StrEnum):
    """What kind of thing went wrong; the status code says the same, more coarsely."""

    INVALID_REQUEST = "invalid_request"
    """The request itself is at fault; sending it again fails again."""
    INVALID_ADAPTER = "invalid_adapter"
    """An uploaded adapter cannot be served; nothing was changed."""
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    """The server is not set up to do that for anybody."""
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    """The request contradicts what the server holds."""
    TOO_LARGE = "too_large"
    BUSY = "busy"
    """Too much is in flight; the same request may succeed later."""
    TIMEOUT = "timeout"
    """It took longer than the request or the server allows, and was aborted."""
    ENGINE = "engine"
    """The engine failed or does not answer."""


class ApiError(Exception):
    """An error that the client is told about.

    Attributes:
        status: The status code of the answer.
        body: What the client reads.
        retry_after_s: Value of the ``Retry-After`` header in seconds, where waiting helps.
    """

    def __init__(
        self,
        status: HTTPStatus,
        kind: ErrorType,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(type=kind.value, message=message, param=param)
        self.retry_after_s = retry_after_s

    def response(self) -> JSONResponse:
        """The answer that carries this error."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status is HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        content = ErrorResponse(error=self.body).model_dump()
        return JSONResponse(content, status_code=self.status, headers=headers)


def invalid_request(message: str, param: str | None = None) -> ApiError:
    """400: the request is at fault, ``param`` names the field."""
    return ApiError(HTTPStatus.BAD_REQUEST, ErrorType.INVALID_REQUEST, message, param=param)


def invalid_adapter(message: str, param: str) -> ApiError:
    """400: the uploaded part ``param`` cannot be served."""
    return ApiError(HTTPStatus.BAD_REQUEST, ErrorType.INVALID_ADAPTER, message, param=param)


def not_found(message: str, param: str | None = None) -> ApiError:
    """404: what ``param`` names does not exist."""
    return ApiError(HTTPStatus.NOT_FOUND, ErrorType.NOT_FOUND, message, param=param)


def conflict(message: str, param: str) -> ApiError:
    """409: what ``param`` names cannot be done to what the server holds."""
    return ApiError(HTTPStatus.CONFLICT, ErrorType.CONFLICT, message, param=param)


def too_large(message: str, param: str | None = None) -> ApiError:
    """413: a body over the server's limit."""
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, ErrorType.TOO_LARGE, message, param=param)


def busy(message: str, retry_after_s: int = 1) -> ApiError:
    """429: too much is in flight; wait ``retry_after_s`` seconds."""
    return ApiError(
        HTTPStatus.TOO_MANY_REQUESTS, ErrorType.BUSY, message, retry_after_s=retry_after_s
    )


def forbidden(message: str, param: str) -> ApiError:
    """403: what ``param`` names is out of bounds."""
    return ApiError(HTTPStatus.FORBIDDEN, ErrorType.FORBIDDEN, message, param=param)


def timed_out(message: str) -> ApiError:
    """408: aborted at its deadline, which is the client's choice within the server's limit."""
    return ApiError(HTTPStatus.REQUEST_TIMEOUT, ErrorType.TIMEOUT, message)


def engine_unavailable(message: str) -> ApiError:
    """503: the engine does not answer."""
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, ErrorType.ENGINE, message)


def field_path(location: Sequence[object]) -> str:
    """Names the field of a pydantic location, e.g. ``questions.0.id``.

    Locations inside a union also hold the branch that was tried (``Question``, ``constrained-str``,
    ``literal['latest','base']``); clients know no such names.
    """
    return ".".join(str(part) for part in location if isinstance(part, int) or _is_field(part))


def _is_field(part: object) -> bool:
    name = str(part)
    return name not in _NOT_A_FIELD and name.isidentifier() and name[0].islower()


def _from_validation(error: RequestValidationError) -> ApiError:
    details = error.errors()
    # Of a union, the branch of another type than the value's says nothing; the others say what is wrong.
    detail = next((d for d in details if d["type"] not in _WRONG_BRANCH), details[0])
    if detail["type"] == "json_invalid":
        return invalid_request(f"the body is not JSON: {detail['ctx']['error']}")
    # The first segment is the place of the request: body, path, query.
    param = field_path(detail["loc"][1:]) or None
    return invalid_request(f"{param or 'body'}: {detail['msg']}", param)


class ErrorRoute(APIRoute):
    """A route whose errors are ours.

    vLLM registers its exception handlers on the app after the plugins' routes are attached, so a
    handler of ours for validation errors would be replaced; a route class is not.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wraps FastAPI's handler."""
        handle = super().get_route_handler()

        async def handle_with_our_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except ApiError as error:
                answer = error
            except RequestValidationError as error:
                answer = _from_validation(error)
            except EngineDied as error:
                answer = engine_unavailable(str(error))
            request.app.state.regime_w.metrics.rejects.labels(answer.body.type).inc()
            return answer.response()

        return handle_with_our_errors


async def _unrouted(request: Request, error: Exception) -> Response:
    """Answers Starlette's own 404 and 405, for which vLLM leaves the plain ``detail`` shape."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    kind = ErrorType.NOT_FOUND if status is HTTPStatus.NOT_FOUND else ErrorType.INVALID_REQUEST
    message = f"{request.method} {request.url.path}: {error.detail}"
    response = ApiError(status, kind, message).response()
    response.headers.update(error.headers or {})
    return response


def install_error_handlers(app: FastAPI) -> None:
    """Gives paths that no route knows the same error shape."""
    app.add_exception_handler(HTTPException, _unrouted)
