"""While the engine starts, answers requests with 503 and what the engine is doing.

Starting takes a minute or two on a GPU. vLLM binds the port first and serves it last; in between, connections would be refused.
"""

import json
import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import structlog

from inference_server.vllm.phases import FIRST_PHASE
from inference_server.wire.errors import STATUS_OF_TYPE, ErrorType

_LOG_EVERY_S = 15.0
_POLL_S = 0.2
_CLIENT_TIMEOUT_S = 1.0
_MOST_BYTES = 2**20
_BACKLOG = 128

_log = structlog.get_logger()


class Starting:
    """A thread that answers every request on a bound socket with 503, and logs, until it is stopped.

    Args:
        listener: Bound; stays open, and keeps the connections that come after the stop. None for a
            server with TLS, which this thread does not speak: it then only logs.
        phase_file: Says what the engine is doing; see `inference_server.vllm.phases`.
    """

    def __init__(self, listener: socket.socket | None, phase_file: Path) -> None:
        """See the class."""
        self._listener, self._phase_file = listener, phase_file
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="starting", daemon=True)
        self._start_s = time.monotonic()

    def __enter__(self) -> Self:
        """Listens."""
        if self._listener is not None:
            self._listener.listen(_BACKLOG)
            # A client may be gone between being noticed and being accepted; accepting would wait for another.
            self._listener.setblocking(False)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """See `stop`."""
        self.stop()

    def stop(self) -> None:
        """Leaves the socket to the real server; may be called again."""
        self._stopped.set()
        self._thread.join()

    @property
    def message(self) -> str:
        """How long the server has been starting, and what the engine is doing."""
        try:
            phase = self._phase_file.read_text(encoding="utf-8")
        except OSError:
            phase = FIRST_PHASE
        return f"the server is starting, for {time.monotonic() - self._start_s:.0f} s: {phase}"

    def _run(self) -> None:
        log_at_s = self._start_s + _LOG_EVERY_S
        while not self._stopped.is_set():
            if time.monotonic() >= log_at_s:
                _log.info("starting", phase=self.message)
                log_at_s += _LOG_EVERY_S
            if self._listener is None:
                self._stopped.wait(_POLL_S)
            elif select.select([self._listener], [], [], _POLL_S)[0]:
                # A client that has gone away needs no answer.
                with suppress(OSError):
                    self._answer(self._listener)

    def _answer(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        deadline_s = time.monotonic() + _CLIENT_TIMEOUT_S
        with client:
            request = b""
            while b"\r\n\r\n" not in request and len(request) < _MOST_BYTES:
                if not (data := _received(client, deadline_s)):
                    return
                request += data
            error = {"type": ErrorType.STARTING, "message": self.message, "param": None}
            body = json.dumps({"error": error}).encode()
            status = STATUS_OF_TYPE[ErrorType.STARTING]
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
            )
            client.sendall(head.encode() + body)
            client.shutdown(socket.SHUT_WR)
            # Read the rest of its request: closing earlier would discard the answer on its way.
            while _received(client, deadline_s):
                pass


def playground_url(host: str | None, port: int, has_tls: bool) -> str:
    """Where a browser on this machine finds the playground of a server that listens on ``host``."""
    host = "127.0.0.1" if host in (None, "", "0.0.0.0", "::") else host
    scheme = "https" if has_tls else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"


def _received(client: socket.socket, deadline_s: float) -> bytes:
    """The next data from a client; the deadline is for all of its data, however slowly it sends them.

    Raises:
        TimeoutError: The deadline has passed.
    """
    if (left_s := deadline_s - time.monotonic()) <= 0:
        raise TimeoutError
    client.settimeout(left_s)
    return client.recv(2**16)
