"""The trainer's handle of the process in which ``reward.functions`` are called."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from trainer.config.safe_text import safe_line, safe_text, shortened
from trainer.errors import RewardFunctionError

_LOAD_TIMEOUT_S = 300.0
"""How long the functions' imports may take; torch may be among them."""
_GRACE_S = 30.0
"""How long after ``reward.timeout_s`` the process may take to end itself."""
_POLL_MS = 100
"""While waiting for an answer, how often to check whether the process still runs."""
_TRACEBACK_CHARS = 20_000
"""How much of a function's traceback is shown."""
_PART = 1 << 16
"""The most bytes to read at once."""


class FunctionFailure(Exception):
    """A call that gave no rewards."""

    def __init__(self, what: str, traceback: str):
        """Keep the reason, and the function's traceback; it is empty if there is none."""
        super().__init__(what)
        self._traceback = traceback

    @property
    def line(self) -> str:
        """The reason in one line."""
        return shortened(safe_line(str(self)))

    def as_error(self, what: str) -> RewardFunctionError:
        """The error that ends a command; the traceback is attached as a note."""
        error = RewardFunctionError(
            f"reward.functions: {what}: {self.line}; fix it and start the same command again"
        )
        if self._traceback:
            error.add_note(_bounded(self._traceback))
        return error


def _bounded(traceback: str) -> str:
    """A traceback that is safe to show in a terminal; if it is long, only its beginning and its end."""
    text, half = safe_text(traceback), _TRACEBACK_CHARS // 2
    num_left_out = len(text) - 2 * half
    if num_left_out <= 0:
        return text
    return f"{text[:half]}\n… {num_left_out} characters are left out …\n{text[-half:]}"


@dataclass(frozen=True, kw_only=True)
class LoadedFunction:
    """What the process found of a function."""

    sha256: str | None
    """SHA-256 of its source, in hex; None if it has no readable source."""
    required: Sequence[str]
    """Arguments without a default."""
    accepted: Sequence[str] | None
    """All arguments that it has names for; None if it takes any others too."""


class FunctionProcess:
    """A process that has loaded the functions; see `trainer.rollouts.reward_worker`."""

    def __init__(self, functions: tuple[str, ...], timeout_s: float):
        """Start the process; a call may take ``timeout_s``."""
        self._timeout_s = timeout_s
        self._dump = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        descriptor = self._dump.fileno()
        self._process = process = subprocess.Popen(
            [
                *(sys.executable, "-m", "trainer.rollouts.reward_worker"),
                *(str(timeout_s), str(descriptor), *functions),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=(descriptor,),
            # Ctrl-C then reaches only the trainer, which finishes its step, and processes that the functions start
            # can be ended together with this one.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        os.set_blocking(self._stdin.fileno(), False)

    def loaded(self) -> dict[str, LoadedFunction]:
        """Wait until all functions are loaded.

        Raises:
            RewardFunctionError: A function cannot be imported.
        """
        try:
            found = self._answer(_LOAD_TIMEOUT_S)
        except FunctionFailure as failure:
            raise failure.as_error("their process cannot start") from None
        if "error" in found:
            what = f"{found['function']} cannot be loaded"
            raise FunctionFailure(found["error"], found["traceback"]).as_error(what)
        return {name: LoadedFunction(**of_function) for name, of_function in found.items()}

    def call(self, index: int, columns: Mapping[str, Any]) -> list[float | None]:
        """What a function gives each completion.

        Raises:
            FunctionFailure: The function raises, takes too long, ends the process, or returns no list of rewards.
        """
        request = to_json([index, columns], inf_nan_mode="constants") + b"\n"
        found = self._answer(self._timeout_s + _GRACE_S, request)
        if "error" in found:
            raise FunctionFailure(found["error"], found["traceback"])
        rewards: list[float | None] = found["rewards"]
        return rewards

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, so that no function can be called any more."""
        if self._process.returncode is not None:
            return True
        # WNOWAIT leaves the process to be waited for, so that the number of its process group is not reused before
        # `kill` ends what is left of the group.
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self._process.pid, options) is not None
        except ChildProcessError:  # `kill` has waited for it, in another thread.
            return True

    def kill(self) -> None:
        """End the process and all processes that the functions started; a call that waits for an answer fails."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """`kill` the process and close its files; only if no call waits for an answer."""
        self.kill()
        self._stdin.close()
        self._stdout.close()
        self._dump.close()

    def _answer(self, limit_s: float, request: bytes = b"") -> dict[str, Any]:
        line, newline, _ = self._exchanged(limit_s, request).partition(b"\n")
        if newline:
            found: dict[str, Any] = json.loads(line)
            return found
        self.kill()
        self._dump.seek(0)
        if dump := self._dump.read().decode(errors="replace"):
            raise FunctionFailure(
                f"took longer than reward.timeout_s = {self._timeout_s:g} s", dump
            )
        raise FunctionFailure(f"its process ended with exit code {self._process.returncode}", "")

    def _exchanged(self, limit_s: float, request: bytes) -> bytes:
        """Write the request, and read until the line or the process ends, or the time is up.

        The end of the process need not close the pipes: a process that a function forked may hold them open.
        """
        deadline = time.monotonic() + limit_s
        stdin, stdout = self._stdin.fileno(), self._stdout.fileno()
        unsent, answer = memoryview(request), bytearray()
        poller = select.poll()
        poller.register(stdout, select.POLLIN)
        if unsent:
            poller.register(stdin, select.POLLOUT)
        while b"\n" not in answer:
            # Checked before the pipes are polled, so that what the process wrote before its end is read.
            is_over = self.has_ended or time.monotonic() > deadline
            ready = [descriptor for descriptor, _ in poller.poll(0 if is_over else _POLL_MS)]
            if stdin in ready:
                try:
                    unsent = unsent[os.write(stdin, unsent) :]
                except BrokenPipeError:  # Reported by the missing answer.
                    unsent = unsent[:0]
                if not unsent:
                    poller.unregister(stdin)
            if stdout in ready:
                if not (part := os.read(stdout, _PART)):
                    break
                answer += part
            elif is_over:
                break
        return bytes(answer)
