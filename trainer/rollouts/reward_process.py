"""The process in which functions of ``reward.functions`` are called, as the trainer handles it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic_core import to_json

from trainer.errors import RewardFunctionError

_LOAD_TIMEOUT_S = 300.0
"""For the imports of the functions, torch perhaps among them."""
_GRACE_S = 30.0
"""How long after ``reward.timeout_s`` the process may take to end itself."""


class FunctionFailure(Exception):
    """A call that gave no rewards."""

    def __init__(self, what: str, traceback: str):
        """Keep why, and the function's traceback, empty where there is none."""
        super().__init__(what)
        self._traceback = traceback

    @property
    def line(self) -> str:
        """Why, in one line."""
        return " ".join(str(self).split())

    def as_error(self, what: str) -> RewardFunctionError:
        """The error that ends a command, with the traceback as its note."""
        error = RewardFunctionError(
            f"reward.functions: {what}: {self.line}; mend it and start the same command again"
        )
        if self._traceback:
            error.add_note(self._traceback)
        return error


class FunctionProcess:
    """One process with the functions loaded; see `trainer.rollouts.reward_worker`."""

    def __init__(self, functions: tuple[str, ...], timeout_s: float):
        """Start it, with the seconds that a call may take."""
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
            pass_fds=(descriptor,),
            # Ctrl-C is for the trainer, which finishes its step; and what the functions start ends with them.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    def loaded(self) -> dict[str, str]:
        """The digests of the sources, once all functions are loaded.

        Raises:
            RewardFunctionError: One cannot be imported.
        """
        try:
            found = self._answer(_LOAD_TIMEOUT_S)
        except FunctionFailure as failure:
            raise failure.as_error("their process cannot start") from None
        if "error" in found:
            what = f"{found['function']} cannot be loaded"
            raise FunctionFailure(found["error"], found["traceback"]).as_error(what)
        return {name: sha256 for name, sha256 in found["sources"].items() if sha256 is not None}

    def call(self, index: int, columns: Mapping[str, Any]) -> list[float | None]:
        """What a function gives each completion.

        Raises:
            FunctionFailure: It raises, takes too long, ends the process, or returns something else.
        """
        request = to_json([index, columns], inf_nan_mode="constants") + b"\n"
        found = self._answer(self._timeout_s + _GRACE_S, request)
        if "error" in found:
            raise FunctionFailure(found["error"], found["traceback"])
        rewards: list[float | None] = found["rewards"]
        return rewards

    @property
    def has_ended(self) -> bool:
        """Whether it can be called no more."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End the process, and all that the functions started; whoever waits for an answer gets a failure."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """`kill` it where nobody waits for an answer."""
        self.kill()
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()
        self._dump.close()

    def _answer(self, limit_s: float, request: bytes = b"") -> dict[str, Any]:
        timer = threading.Timer(limit_s, self.kill)
        timer.daemon = True
        timer.start()
        try:
            with suppress(BrokenPipeError):  # That no answer comes says why.
                self._stdin.write(request)
                self._stdin.flush()
            line = self._stdout.readline()
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            found: dict[str, Any] = json.loads(line)
            return found
        self.kill()
        self._dump.seek(0)
        if dump := self._dump.read().decode(errors="replace"):
            raise FunctionFailure(
                f"took longer than reward.timeout_s = {self._timeout_s:g} s", dump
            )
        raise FunctionFailure(f"its process ended with exit code {self._process.returncode}", "")
