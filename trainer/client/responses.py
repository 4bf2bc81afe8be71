"""Reads a server's responses: bodies of bounded size, and headers that may be wrong."""

import re
from collections.abc import AsyncIterator
from http import HTTPStatus

import httpx
from pydantic import ValidationError

from inference_server.wire.errors import ErrorResponse
from trainer.config.safe_text import safe_line
from trainer.errors import ConflictError, NotFoundError, ServerRejectedError

MAX_BODY_BYTES = 64 * 2**20
"""The most bytes of a response whose size does not depend on what was asked."""
ACCEPTED_ENCODINGS = "gzip, deflate, zstd"
"""Encodings in which a small piece grows at most by a known factor, so that the size can be checked piece by piece."""
_SLICE_BYTES = 256
"""How many bytes are decompressed at a time; zstd makes 128 KiB out of 4 bytes."""
_MAX_RETRY_AFTER_S = 60.0
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)
_SHOWN_CHARS = 200
_KINDS: dict[int, type[ServerRejectedError]] = {
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.CONFLICT: ConflictError,
}


class InvalidResponseError(Exception):
    """A response that is incomplete, or not from a Regime W server; only raised inside the retry loop."""


def retry_after_s(response: httpx.Response) -> float:
    """How long a response asks to wait, at most a minute; 0 if it does not say so in seconds."""
    given = response.headers.get("Retry-After", "").strip()
    return min(float(given), _MAX_RETRY_AFTER_S) if _SECONDS.fullmatch(given) else 0.0


async def drop_location(response: httpx.Response) -> None:
    """Remove a redirect's address: httpx would parse it, and may fail, although it does not follow redirects here."""
    response.headers.pop("Location", None)


async def read_body(response: httpx.Response, max_bytes: int) -> AsyncIterator[bytes]:
    """The pieces of a body, decompressed.

    Raises:
        InvalidResponseError: The body is longer, or compressed in a way that was not asked for.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", *ACCEPTED_ENCODINGS.split(", ")):
        raise InvalidResponseError(f"a response with Content-Encoding {safe_line(encoding)!r}")
    num_bytes = 0
    async for part in _decompressed(response, encoding):
        num_bytes += len(part)
        if num_bytes > max_bytes:
            raise InvalidResponseError(f"a response of more than {max_bytes} bytes")
        yield part


def _decompressed(response: httpx.Response, encoding: str) -> AsyncIterator[bytes]:
    """The decompressed pieces of a body; no compressed piece has more than `_SLICE_BYTES`."""
    if encoding in ("identity", "") or response.is_stream_consumed:
        return response.aiter_bytes()

    async def slices() -> AsyncIterator[bytes]:
        async for raw in response.aiter_raw():
            for start in range(0, len(raw), _SLICE_BYTES):
                yield raw[start : start + _SLICE_BYTES]

    return httpx.Response(
        response.status_code, headers=response.headers, content=slices(), request=response.request
    ).aiter_bytes()


def rejection(response: httpx.Response) -> ServerRejectedError:
    """The error that a response stands for, with a message that is safe to show."""
    try:
        error = ErrorResponse.model_validate_json(response.content).error
        message, param = safe_line(error.message), error.param
    except (ValidationError, RecursionError):
        text = response.content[: 4 * _SHOWN_CHARS].decode(errors="replace")
        message, param = safe_line(text)[:_SHOWN_CHARS], None
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        message += "; set REGIME_W_API_KEY to the server's key"
    kind = _KINDS.get(response.status_code, ServerRejectedError)
    return kind(response.status_code, message, param)
