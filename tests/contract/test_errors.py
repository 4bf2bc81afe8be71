"""Every error that the server raises for a client has a status code."""

import json
from collections.abc import Iterator

from inference_server.engine import EngineDied
from inference_server.errors import RequestError, UnusableCompletion
from inference_server.http.errors import error_response
from inference_server.wire.errors import STATUS_OF_TYPE, ErrorResponse, ErrorType


def kinds_of(base: type[RequestError]) -> Iterator[type[RequestError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds_of(kind)


def test_every_type_of_error_has_a_status() -> None:
    assert set(STATUS_OF_TYPE) == set(ErrorType)


def test_every_kind_of_error_is_answered_in_the_one_shape() -> None:
    kinds = list(kinds_of(RequestError))
    assert EngineDied in kinds
    for kind in kinds:
        response = error_response(kind("the reason", "field"))
        assert 400 <= response.status_code < 600
        error = ErrorResponse.model_validate(json.loads(bytes(response.body))).error
        # At the end of a stream a client has only the type to tell the status from.
        assert STATUS_OF_TYPE[error.type] == response.status_code or kind is UnusableCompletion
        assert (error.message, error.param) == ("the reason", "field")
