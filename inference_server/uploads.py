"""Reading the multipart body of an adapter upload."""

import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from inference_server.adapter_files import MAX_ADAPTER_CONFIG_BYTES
from inference_server.errors import invalid_adapter, invalid_request, too_large
from inference_server.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE

_SHA256_FIELD = "sha256"
_SHA256_HEX_LENGTH = 64
# Boundaries and part headers, over the two files.
_FORM_OVERHEAD_BYTES = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """An upload as the client sent it; nothing is verified yet."""

    config_json: bytes
    weights: BinaryIO
    """Open for as long as the body is."""
    sha256: str
    """What the client says of the weights, in lower case."""


@asynccontextmanager
async def read_upload(request: Request, max_adapter_bytes: int) -> AsyncIterator[Upload]:
    """Takes an upload's parts apart; large ones lie in temporary files, not in memory.

    Raises:
        ApiError: 400 where a part is missing or malformed, 413 where the body is too large.
    """
    max_bytes = max_adapter_bytes + MAX_ADAPTER_CONFIG_BYTES + _FORM_OVERHEAD_BYTES
    declared = request.headers.get("Content-Length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _body_too_large(max_adapter_bytes)
    if not request.headers.get("Content-Type", "").startswith("multipart/form-data"):
        raise invalid_request("send the adapter as multipart/form-data")
    receive = _bounded(request.receive, max_bytes, max_adapter_bytes)
    bounded = Request(request.scope, receive)
    try:
        async with bounded.form(max_files=2, max_fields=1) as form:
            config = _file(form, ADAPTER_CONFIG_FILE)
            if (config.size or 0) > MAX_ADAPTER_CONFIG_BYTES:
                raise too_large(
                    f"{ADAPTER_CONFIG_FILE} has more than {MAX_ADAPTER_CONFIG_BYTES} bytes",
                    ADAPTER_CONFIG_FILE,
                )
            yield Upload(
                config_json=await config.read(),
                weights=_file(form, ADAPTER_WEIGHTS_FILE).file,
                sha256=_sha256(form),
            )
    except HTTPException as error:  # what Starlette makes of a body that it cannot parse
        raise invalid_request(f"the multipart body is malformed: {error.detail}") from error


def _bounded(receive: Receive, max_bytes: int, max_adapter_bytes: int) -> Receive:
    """Counts the body as it arrives: chunked ones declare no length."""
    num_bytes = 0

    async def receive_and_count() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > max_bytes:
            raise _body_too_large(max_adapter_bytes)
        return message

    return receive_and_count


def _body_too_large(max_adapter_bytes: int) -> Exception:
    return too_large(
        f"the upload is over the server's limit of {max_adapter_bytes} bytes", ADAPTER_WEIGHTS_FILE
    )


def _file(form: FormData, name: str) -> UploadFile:
    part = form.get(name)
    if not isinstance(part, UploadFile):
        raise invalid_adapter(f"the file part {name!r} is missing", name)
    return part


def _sha256(form: FormData) -> str:
    value = form.get(_SHA256_FIELD)
    if not isinstance(value, str):
        raise invalid_adapter(
            "the form field 'sha256' (hex digest of the weights file) is missing", _SHA256_FIELD
        )
    digest = value.strip().lower()
    if len(digest) != _SHA256_HEX_LENGTH or not set(digest) <= set(string.hexdigits):
        raise invalid_adapter("not a SHA-256 digest in hex", _SHA256_FIELD)
    return digest
