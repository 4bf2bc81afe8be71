"""Whom a server without a key answers: programs on this machine, and its own page.

Listening on loopback alone keeps other machines out, but not the web pages shown by a browser on this
machine: any page can send requests to ``http://127.0.0.1:8000``, and a page whose owner has pointed its
host name at 127.0.0.1 (DNS rebinding) even has the same origin, so it can read the answers.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.errors import Forbidden
from inference_server.http.auth import PLAYGROUND_PATH
from inference_server.http.errors import refuse
from inference_server.wire.settings.serve import names_loopback

_WITH_A_KEY = "to allow it, set REGIME_W_API_KEY and send it as 'Authorization: Bearer KEY'"
# "none" is sent for an address that the user typed.
_OWN_SITES = frozenset({"same-origin", "none"})


class LoopbackGuard:
    """ASGI middleware: answers requests under another host's name, or from other pages, with 403.

    Args:
        app: The application to guard.
    """

    def __init__(self, app: ASGIApp) -> None:
        """See the class."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 403 (closes the connection of a websocket)."""
        error = None if scope["type"] == "lifespan" else _refusal(scope)
        if error is None:
            await self._app(scope, receive, send)
        else:
            await refuse(error, scope, receive, send)


def _refusal(scope: Scope) -> Forbidden | None:
    headers = Headers(scope=scope)
    hosts = [host.lower() for host in headers.getlist("Host")]
    if not all(map(names_loopback, hosts)):
        return Forbidden(
            f"without a key only 127.0.0.1 and localhost are answered; {_WITH_A_KEY}", "Host"
        )
    if scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", PLAYGROUND_PATH):
        return None  # may be a link to the page; it changes nothing, and no frame can show it
    origins = [origin.lower().partition("://")[2] for origin in headers.getlist("Origin")]
    if not all(origin in hosts for origin in origins):
        return Forbidden(f"a page of another origin asks without a key; {_WITH_A_KEY}", "Origin")
    if not set(headers.getlist("Sec-Fetch-Site")) <= _OWN_SITES:
        return Forbidden(f"a page of another site asks without a key; {_WITH_A_KEY}", "Origin")
    return None
