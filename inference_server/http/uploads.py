"""Reading an uploaded adapter from a request: a multipart body, or a path on a volume of the server."""

import errno
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from inference_server.adapters.full_disk import full_disk_named
from inference_server.adapters.storage import MAX_ADAPTER_CONFIG_BYTES, Upload
from inference_server.errors import (
    Forbidden,
    InvalidAdapter,
    InvalidRequest,
    TooLarge,
    field_path,
)
from inference_server.http.media_types import FORM, JSON, media_type
from inference_server.settings import Settings
from inference_server.wire.adapters.references import AdapterPath
from inference_server.wire.digests import SHA256_PATTERN
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE

_SHA256_FIELD = "sha256"

# The route reads the body itself, so FastAPI cannot derive this part of the OpenAPI document.
UPLOAD_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": [ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, _SHA256_FIELD],
                "properties": {
                    ADAPTER_CONFIG_FILE: {"type": "string", "format": "binary"},
                    ADAPTER_WEIGHTS_FILE: {"type": "string", "format": "binary"},
                    _SHA256_FIELD: {"type": "string", "pattern": SHA256_PATTERN},
                },
            }
        },
        JSON: {"schema": AdapterPath.model_json_schema()},
    },
}


@asynccontextmanager
async def read_upload(request: Request, settings: Settings) -> AsyncIterator[Upload]:
    """Reads the parts of an upload; large ones are kept in temporary files, not in memory.

    Raises:
        InvalidRequest: The body or its type is malformed, or the path cannot be read.
        InvalidAdapter: A part is missing.
        Forbidden: The path is outside the server's adapter root.
        TooLarge: The body exceeds the server's limit.
        StorageFull: The disk of temporary files is full.
    """
    given = media_type(request.headers)
    if given == JSON:
        with _open_path(_adapter_path(await request.body()), settings.adapter_root) as upload:
            yield upload
    elif given == FORM:
        async with _read_form(request) as upload:
            yield upload
    else:
        raise InvalidRequest(f"send the adapter as {FORM}, or its path as {JSON}")


def _adapter_path(body: bytes) -> AdapterPath:
    try:
        return AdapterPath.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = field_path(first["loc"])
        raise InvalidRequest(f"{field or 'body'}: {first['msg']}", field or None) from error


@contextmanager
def _open_path(body: AdapterPath, root: Path | None) -> Iterator[Upload]:
    """Opens an adapter that is stored on a volume of the server."""
    if root is None:
        raise Forbidden("the server was started without --adapter-root", "path")
    try:
        # Resolve links first: the real location of the files decides.
        folder = (root / body.path).resolve()
        files = [(folder / name).resolve() for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)]
        if not all(file.is_relative_to(root.resolve()) for file in files):
            raise Forbidden("path: outside the server's --adapter-root", "path")
        if not all(file.is_file() for file in files):
            raise InvalidRequest(
                f"path: no folder with {ADAPTER_CONFIG_FILE} and {ADAPTER_WEIGHTS_FILE}", "path"
            )
        config, weights = files
        if config.stat().st_size > MAX_ADAPTER_CONFIG_BYTES:
            raise _config_too_large()
        config_json, file = config.read_bytes(), weights.open("rb")
    except (OSError, ValueError) as error:  # name too long, NUL in the name, no permission
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidRequest(f"path: {reason}", "path") from error
    except RuntimeError as error:  # what `Path.resolve` raises before Python 3.13
        raise InvalidRequest(f"path: {os.strerror(errno.ELOOP)}", "path") from error
    with file:
        yield Upload(config_json=config_json, weights=file, sha256=body.sha256.lower())


@asynccontextmanager
async def _read_form(request: Request) -> AsyncIterator[Upload]:
    try:
        async with AsyncExitStack() as stack:
            with full_disk_named("folder of temporary files", Path(tempfile.gettempdir())):
                parts = request.form(max_files=2, max_fields=1)
                form = await stack.enter_async_context(parts)
            config = _file(form, ADAPTER_CONFIG_FILE)
            if (config.size or 0) > MAX_ADAPTER_CONFIG_BYTES:
                raise _config_too_large()
            yield Upload(
                config_json=await config.read(),
                weights=_file(form, ADAPTER_WEIGHTS_FILE).file,
                sha256=_sha256(form),
            )
    except HTTPException as error:  # raised by Starlette for a body that it cannot parse
        raise InvalidRequest(f"the multipart body is malformed: {error.detail}") from error


def _config_too_large() -> TooLarge:
    return TooLarge(
        f"{ADAPTER_CONFIG_FILE} has more than {MAX_ADAPTER_CONFIG_BYTES} bytes",
        ADAPTER_CONFIG_FILE,
    )


def _file(form: FormData, name: str) -> UploadFile:
    part = form.get(name)
    if not isinstance(part, UploadFile):
        raise InvalidAdapter(f"the file part {name!r} is missing", name)
    return part


def _sha256(form: FormData) -> str:
    value = form.get(_SHA256_FIELD)
    if not isinstance(value, str):
        raise InvalidAdapter(
            "the form field 'sha256' (hex digest of the weights file) is missing", _SHA256_FIELD
        )
    digest = value.strip()
    if not re.fullmatch(SHA256_PATTERN, digest):
        raise InvalidAdapter("sha256: not a SHA-256 digest in hex", _SHA256_FIELD)
    return digest.lower()
