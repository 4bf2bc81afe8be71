r"""Checks every JSON body before a route reads it: valid text, not too many values, no key twice, no NaN.

JSON can spell half of a surrogate pair ("\ud83d"), which no encoder and no tokenizer accepts. And the cost
of validating a body grows with its values far more than with its bytes: each wrong item of a list yields an
error for every type that it might have had, also in vLLM's own routes.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.errors import InvalidRequest
from inference_server.http.errors import refuse
from inference_server.http.media_types import media_type
from inference_server.wire.json_and_toml import JsonFlaw, parse_json
from inference_server.wire.schemas import MAX_QUESTIONS

# Each question of the longest request has an id, a text and a gold answer.
MAX_VALUES = 5 * MAX_QUESTIONS

# A list of token ids counts as one value but is parsed whole, and nothing can interrupt that: this many parts take a
# tenth of a second.
MAX_PARTS = 2**18
# Numbers of thousands of digits take longer to parse than their count suggests.
MAX_UNQUOTED_BYTES = 2**22
# Bytes counted without a break: a millisecond's work.
_SLICE_BYTES = 2**16

# Also matches a text that goes on after the slice, up to the slice's end.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("|\Z)', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# vLLM's fields that may hold as many token ids as the context; each such list counts as one value.
_TOKEN_FIELDS = frozenset(
    {"prompt", "prompt_token_ids", "token_ids", "tokens", "allowed_token_ids", "stop_token_ids"}
)


class JsonBody:
    """ASGI middleware: answers JSON bodies that no route should read with 400.

    Args:
        app: The application to guard. It gets the whole body at once, so a limit on the body's size must
            come before this.
    """

    def __init__(self, app: ASGIApp) -> None:
        """See the class."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 400."""
        if scope["type"] != "http" or not _is_json(scope):
            await self._app(scope, receive, send)
            return
        try:
            body = await _read(receive)
            if body is None:
                return
            check_json(body)
        except InvalidRequest as error:
            await refuse(error, scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, receive_again, send)


class PartCount:
    """Counts the parts of a body as it arrives, before it is parsed: parsing holds up every other request."""

    def __init__(self) -> None:
        """Nothing has arrived."""
        self._num_parts = self._num_unquoted = 0
        self._unread = b""

    def add(self, piece: bytes) -> None:
        """Counts the next piece.

        Raises:
            InvalidRequest: The body is over `MAX_PARTS` or `MAX_UNQUOTED_BYTES`.
        """
        piece = self._unread + piece
        # An escape that is cut in half is read with the next piece.
        num_backslashes = len(piece) - len(piece.rstrip(b"\\"))
        end = len(piece) - num_backslashes % 2
        half, piece = piece[end:], piece[:end]
        unquoted, num_texts, start, last = [], 0, 0, None
        for last in _TEXT.finditer(piece):
            unquoted.append(piece[start : last.start()])
            start, num_texts = last.end(), num_texts + 1
        unquoted.append(piece[start:])
        is_open = last is not None and not last[1]
        self._unread = (b'"' if is_open else b"") + half
        outside = b"".join(unquoted)
        self._num_parts += num_texts - is_open + sum(map(outside.count, (b",", b"[", b"{")))
        self._num_unquoted += len(outside)
        if self._num_parts > MAX_PARTS or self._num_unquoted > MAX_UNQUOTED_BYTES:
            raise InvalidRequest(
                f"the body holds over {MAX_PARTS} values, or over {MAX_UNQUOTED_BYTES} bytes beside its "
                "texts; send less with one request"
            )


async def _read(receive: Receive) -> bytes | None:
    """A whole body, counted as it arrives; None if the client has left."""
    received, count, more = bytearray(), PartCount(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body = message.get("body", b"")
        for start in range(0, len(body), _SLICE_BYTES):
            if start:
                await asyncio.sleep(0)
            count.add(body[start : start + _SLICE_BYTES])
        received += body
        more = message.get("more_body", False)
    return bytes(received)


def check_json(body: bytes) -> None:
    """Checks a body that is meant to be JSON; invalid JSON is left to its route.

    Raises:
        InvalidRequest: A text in it is not valid Unicode, or it holds too many values, a key twice, or NaN or
            infinity.
    """
    if b"\0" in body:  # UTF-16 and UTF-32, which Python's json reads too
        raise InvalidRequest("the body is not UTF-8")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is not UTF-8") from error
    try:
        value = parse_json(body)
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    except JsonFlaw as error:
        where = "the body:" if error.key is None else "the body's key"
        raise InvalidRequest(f"{where} {error}", error.key) from error
    except ValueError:
        return
    # A value takes at least one byte, so the values of a short body need no counting.
    if len(body) > MAX_VALUES or _SURROGATE.search(body):
        _check_values(value)


def _is_json(scope: Scope) -> bool:
    return "json" in media_type(Headers(scope=scope))


def _check_values(root: Any) -> None:
    num_seen, unseen = 0, [("", "", root)]
    while unseen:
        path, field, value = unseen.pop()
        num_seen += 1
        _check_text(path, value)
        if isinstance(value, dict | list) and not _is_tokens(field, value):
            if num_seen + len(unseen) + len(value) > MAX_VALUES:
                raise InvalidRequest(
                    f"{path or 'body'}: the body holds more than {MAX_VALUES} values; send fewer "
                    "with one request",
                    path or None,
                )
            unseen.extend(_items(path, field, value))


def _items(
    path: str, field: str, value: dict[str, Any] | list[Any]
) -> Iterator[tuple[str, str, Any]]:
    """Path, field and value of each item; the field of a list's items is the list's."""
    start = f"{path}." if path else ""
    if isinstance(value, list):
        yield from ((f"{start}{index}", field, item) for index, item in enumerate(value))
        return
    for key, item in value.items():
        _check_text(path, key)
        yield f"{start}{key}", key, item


def _is_tokens(field: str, value: dict[str, Any] | list[Any]) -> bool:
    return field in _TOKEN_FIELDS and all(type(item) is int for item in value)


def _check_text(path: str, value: Any) -> None:
    if not isinstance(value, str):
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        raise InvalidRequest(
            f"{path or 'body'}: holds {half}, half of a surrogate pair, which is no character",
            path or None,
        ) from error
