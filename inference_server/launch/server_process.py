"""The server as a child process: start it, wait until it answers, stop it.

The engine runs in child processes of the server. All of them share one process group, which is killed at
the end so that no process outlives the server.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

# Three processes import vLLM one after the other: two minutes on two slow cores with a cold disk.
_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.25
_LOG_TAIL_LINES = 30


class ServerFailed(Exception):
    """The server exited or did not answer in time; the message includes the end of its log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerProcess:
    """A running server."""

    url: str
    """Without a path, e.g. ``http://127.0.0.1:8000``."""
    process: subprocess.Popen[bytes]
    log_path: Path

    @classmethod
    def start(
        cls,
        *,
        model: str | Path,
        log_path: Path,
        port: int | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Starts ``python -m inference_server`` on loopback; it answers 10 s to a minute or two later.

        Args:
            model: Base model.
            log_path: File that receives the server's output.
            port: Port to listen on; None picks a free one.
            flags: Further command-line flags.
            environment: Variables added to this process's environment.
        """
        port = free_port() if port is None else port
        command = [sys.executable, "-m", "inference_server"]
        command += ["--model", str(model), "--port", str(port), *flags]
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        return cls(url=f"http://127.0.0.1:{port}", process=process, log_path=log_path)

    def wait_until_healthy(self) -> None:
        """Waits for the first successful response of ``/health``.

        Raises:
            ServerFailed: The process exited, or did not answer within five minutes.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        with httpx.Client(base_url=self.url, timeout=5.0, trust_env=False) as client:
            while time.monotonic() < deadline:
                if (code := self.process.poll()) is not None:
                    raise ServerFailed(f"the server ended with exit code {code}\n{self.log_tail()}")
                try:
                    if client.get("/health").is_success:
                        return
                except httpx.TransportError:
                    pass  # not listening yet
                time.sleep(_POLL_S)
        raise ServerFailed(
            f"the server did not answer within {_START_TIMEOUT_S:g} s\n{self.log_tail()}"
        )

    def stop(self) -> int:
        """Terminates the server, and kills whatever of it still runs after 30 seconds.

        Returns:
            Its exit code; the negative number of the signal if a signal ended it.
        """
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):  # the whole group may have exited already
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def log_tail(self) -> str:
        """The last lines of the log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])


@contextmanager
def running_server(
    *,
    model: str | Path,
    log_path: Path,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """A server that answers within the block and is stopped after it; see `ServerProcess.start`.

    Raises:
        ServerFailed: It did not start.
    """
    server = ServerProcess.start(
        model=model, log_path=log_path, flags=flags, environment=environment
    )
    try:
        server.wait_until_healthy()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
