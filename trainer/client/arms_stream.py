"""Reads a streamed response to an arms request: groups as they were finished, empty lines between, usage at the end."""

from http import HTTPStatus

import httpx

from inference_server.wire.errors import STATUS_OF_TYPE, ErrorResponse
from inference_server.wire.schemas import ArmGroup, ArmsRequest, ArmsResponse
from inference_server.wire.streams import StreamEnd


def read_stream(request: ArmsRequest, content: bytes) -> ArmsResponse | httpx.Response:
    """The groups in the order of the request's questions, or the error that ended the stream as a response.

    Raises:
        ValidationError: The stream is incomplete, or has lines of another kind.
    """
    *lines, last = [line for line in content.split(b"\n") if line] or [b""]
    if last.startswith(b'{"error"'):
        kind = ErrorResponse.model_validate_json(last).error.type
        status = STATUS_OF_TYPE.get(kind, HTTPStatus.INTERNAL_SERVER_ERROR)
        return httpx.Response(status, content=last)
    end = StreamEnd.model_validate_json(last)
    index = {question.id: i for i, question in enumerate(request.identified_questions)}
    groups = [ArmGroup.model_validate_json(line) for line in lines]
    return ArmsResponse(
        policy_version=end.policy_version,
        boot_id=end.boot_id,
        # Groups that nobody asked for come last; they are refused later.
        groups=sorted(groups, key=lambda group: index.get(group.id, len(index))),
        usage=end.usage,
    )
