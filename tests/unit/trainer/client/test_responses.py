"""What a server's error responses become."""

import httpx
import pytest

from trainer.client.responses import rejection
from trainer.errors import ConflictError, NotFoundError, ServerRejectedError


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ServerRejectedError), (404, NotFoundError), (409, ConflictError)],
)
def test_what_a_caller_can_react_to_has_a_type(
    status: int, kind: type[ServerRejectedError]
) -> None:
    body = {"error": {"type": "t", "message": "no", "param": "version"}}
    error = rejection(httpx.Response(status, json=body))
    assert type(error) is kind
    assert (error.status, error.param, str(error)) == (
        status,
        "version",
        f"the server answered {status}: no",
    )
