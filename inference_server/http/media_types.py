"""What a request says that its body is."""

from starlette.datastructures import Headers

FORM = "multipart/form-data"
JSON = "application/json"


def media_type(headers: Headers) -> str:
    """The ``Content-Type`` without its parameters, in lower case; empty if there is none."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()
