"""The live page of a run or an SFT: its report, rendered again when more is recorded.

Input: its folder, which is only read. Output: HTTP on 127.0.0.1 without a key, for the programs and
people on this machine. If a browser on this machine shows a page of another site, that page cannot read the
answers, since they have another origin. A site whose name was pointed at 127.0.0.1 is refused because of its
``Host`` header.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any, Self

from plotly.offline import get_plotlyjs

from inference_server.wire.settings.serve import names_loopback
from trainer.errors import TrainerError, UsageError
from trainer.evaluation.results import EVALUATION_FILE
from trainer.io.kept_settings import CONFIG_FILE
from trainer.io.metrics_file import METRICS_FILE, newest_time
from trainer.io.run_layout import FAILED_FOLDER, ROLLOUTS_FOLDER
from trainer.report.facts import is_running
from trainer.report.page import live_html

_HOST = "127.0.0.1"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_CACHED = "max-age=86400, immutable"
_NO_STORE = "no-store"


class Watch:
    """Serves the page of a run or an SFT; a context manager.

    Args:
        folder: Its folder; its first step need not be finished.
        port: Port on 127.0.0.1; 0 takes a free one.

    Raises:
        UsageError: No run was begun in the folder, or the port cannot be listened on.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._lock = Lock()
        self._rendered: tuple[str, bytes] | None = None
        if not any((folder / name).exists() for name in (CONFIG_FILE, METRICS_FILE)):
            raise UsageError(
                f"no run was begun in {folder}; name the run's own folder (run.folder; of an SFT: output), which has "
                f"{CONFIG_FILE}"
            )
        try:
            self._server = _Server((_HOST, port), self)
        except OSError as error:
            raise UsageError(f"port {port}: {error.strerror}; give another with --port") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.server_close()

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{_HOST}:{self._server.server_port}"

    def serve(self) -> None:
        """Answer until Ctrl-C, or until `stop`."""
        with suppress(KeyboardInterrupt):
            self._server.serve_forever()

    def stop(self) -> None:
        """End `serve`, which runs on another thread."""
        self._server.shutdown()

    def page(self) -> bytes:
        """The page with what is recorded now, rendered once for each state."""
        with self._lock:
            state = self._state()
            if self._rendered is None or self._rendered[0] != state:
                self._rendered = state, live_html(self._folder, state).encode()
            return self._rendered[1]

    def state(self) -> bytes:
        """The present state, to compare with the one that a page shows, and what the page says of the present.

        These are the seconds since the newest step's line, and whether the job is running; null where that is not known.
        """
        written = newest_time(self._folder)
        now = {
            "state": self._state(),
            "age_s": None if written is None else max(0.0, time.time() - written),
            "is_running": is_running(self._folder),
        }
        return json.dumps(now).encode()

    def _state(self) -> str:
        """A text that changes as soon as the size or time of something that the page shows changes."""
        found = []
        for name in (METRICS_FILE, EVALUATION_FILE, CONFIG_FILE, ROLLOUTS_FOLDER, FAILED_FOLDER):
            with suppress(FileNotFoundError):
                file = (self._folder / name).stat()
                found.append(f"{name} {file.st_size} {file.st_mtime_ns}")
        return ", ".join([*found, f"running {is_running(self._folder)}"])


@cache
def _plotly() -> bytes:
    return str(get_plotlyjs()).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A second server on the same port would get half of the requests.
    allow_reuse_port = False

    def __init__(self, address: tuple[str, int], watch: Watch) -> None:
        self.watch = watch
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore an `OSError`: a browser that closes its connection is no error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: _Server

    def do_GET(self) -> None:
        if not all(map(names_loopback, self.headers.get_all("Host", []))):
            self._answer(
                HTTPStatus.FORBIDDEN,
                "text/plain",
                b"Host: only 127.0.0.1 and localhost are answered\n",
            )
            return
        watch, path = self.server.watch, self.path.partition("?")[0]
        routes: dict[str, tuple[str, Callable[[], bytes], str]] = {
            "/": ("text/html", watch.page, _NO_STORE),
            "/state": ("application/json", watch.state, _NO_STORE),
            "/plotly.js": ("text/javascript", _plotly, _CACHED),
        }
        if path not in routes:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"the page is at /\n")
            return
        kind, content, cache_control = routes[path]
        try:
            body = content()
        except (TrainerError, OSError) as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{error}\n".encode())
            return
        self._answer(HTTPStatus.OK, kind, body, cache_control=cache_control)

    def _answer(
        self, status: HTTPStatus, kind: str, body: bytes, *, cache_control: str = _NO_STORE
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
        for name, value in (headers | {"Cache-Control": cache_control} | _HEADERS).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "regime-w"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing for a request."""
