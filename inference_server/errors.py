"""Errors that a client is told about, in the server's own terms.

Nothing here knows HTTP: `inference_server.http.errors` alone maps each class to a status code.

RequestError
  InvalidRequest, InvalidAdapter, Unauthorized, Forbidden, NotFound, Conflict, TooLarge, Busy,
  DeadlineExceeded, StorageFull, UnusableCompletion
  EngineUnavailable
    EngineDied (`inference_server.engine`)
"""

from collections.abc import Sequence

# Segments of a pydantic location that name a branch of a union rather than a field of the body.
_NOT_A_FIELD = frozenset({"str", "int", "float", "bool"})


class RequestError(Exception):
    """Base of all errors that a client is told about; the message is meant for the client.

    Attributes:
        param: Field or part of the request at fault; None if no single one is.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        """See the class."""
        super().__init__(message)
        self.param = param


class InvalidRequest(RequestError):
    """The request itself is wrong; sending it again fails again."""


class InvalidAdapter(RequestError):
    """An uploaded adapter cannot be served; nothing was changed."""


class Unauthorized(RequestError):
    """The request does not carry the API key."""


class Forbidden(RequestError):
    """The server is not configured to do this for any client."""


class NotFound(RequestError):
    """What the request names does not exist."""


class Conflict(RequestError):
    """The request contradicts what the server holds."""


class TooLarge(RequestError):
    """A request body or a part of it exceeds the server's limit."""


class Busy(RequestError):
    """Too much is in flight; the same request may succeed later."""


class DeadlineExceeded(RequestError):
    """The work took longer than the request or the server allows, and was aborted."""


class StorageFull(RequestError):
    """The server's disk is full; the same request succeeds once it has room."""


class UnusableCompletion(RequestError):
    """The engine returned a completion that must not be trained on."""


class EngineUnavailable(RequestError):
    """The engine does not answer."""


def field_path(location: Sequence[object]) -> str:
    """Names the field of a pydantic error location, e.g. ``questions.0.id``; may be empty.

    Locations inside a union also hold the branch that was tried (``Question``, ``constrained-str``,
    ``literal['latest','base']``); these are left out, since clients do not know them.
    """
    return ".".join(str(part) for part in location if isinstance(part, int) or _is_field(part))


def _is_field(part: object) -> bool:
    name = str(part)
    return name not in _NOT_A_FIELD and name.isidentifier() and name[0].islower()
