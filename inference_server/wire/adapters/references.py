"""How a request names an adapter: by its version's number, or by its path on a volume of the server."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictInt
from pydantic_core import PydanticCustomError

from inference_server.wire.bodies import RequestBody
from inference_server.wire.digests import SHA256_PATTERN

NUM_VERSIONS = 10**9
"""Versions are numbered from 0 to one less than this."""
VersionNumber = Annotated[StrictInt, Field(ge=0, lt=NUM_VERSIONS)]


def _is_policy(value: object) -> object:
    """Refuse whatever names no policy, with one message instead of one for each branch of the union."""
    is_number = type(value) is int and 0 <= value < NUM_VERSIONS
    if not is_number and value not in ("latest", "base"):
        raise PydanticCustomError(
            "policy", "Input should be 'latest', 'base' or the number of a version, such as 12"
        )
    return value


PolicyReference = Annotated[Literal["latest", "base"] | VersionNumber, BeforeValidator(_is_policy)]


class AdapterPath(RequestBody):
    """Body of ``PUT /v1/adapters/{version}`` for files that are already on a volume of the server."""

    path: str = Field(min_length=1, max_length=4096)
    """Folder with both files, below the server's ``--adapter-root``; absolute or relative to it."""
    sha256: str = Field(pattern=SHA256_PATTERN)
    """Hex digest of the weights file."""
