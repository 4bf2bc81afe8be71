"""Starts, asks and ends the process that compares mathematics; see `regime_w.algebra.math_worker`."""

import atexit
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path

LIBRARY = "math_verify"
_PROGRAM = Path(__file__).with_name("math_worker.py")
_NUM_STARTS = 2
_REPLIES = {b"true\n": True, b"false\n": False}
_NUM_KEPT = 4096
"""Comparisons that are remembered: the arms of a group give the same few answers."""


class LibraryMissing(Exception):
    """math-verify is not installed, or does not work; the message is one line that says how to get it."""


def require_library() -> None:
    """Check that math-verify is installed and compares two expressions; tries it once per process.

    Raises:
        LibraryMissing: It is not installed, or cannot compare them.
    """
    spec = importlib.util.find_spec(LIBRARY)
    # A mere folder of that name in the working directory has a spec, too, but one without an origin.
    if spec is None or spec.origin is None:
        raise _missing("is not installed")
    try_library()


@cache
def try_library() -> None:
    """Start the process that compares mathematics, and let it compare two expressions.

    Raises:
        LibraryMissing: math-verify does not work in it.
    """
    try:
        _PROCESS.ask("x + 1", "1 + x")
    except RuntimeError as error:
        raise _missing(f"does not work here ({error})") from None


def _missing(reason: str) -> LibraryMissing:
    return LibraryMissing(
        f"the answer type math needs math-verify, which {reason}: pip install 'regime-w[math]', or set another "
        "answer_type"
    )


class MathProcess:
    """The process that compares mathematics, started when it is first needed; several threads may ask it."""

    def __init__(self, program: Path = _PROGRAM) -> None:
        """Keep what to start; objects of this class live as long as the program."""
        self._program = program
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def ask(self, answer: str, gold: str) -> bool:
        """Whether both can be read, and the answer equals the gold answer.

        Raises:
            LibraryMissing: The process cannot use math-verify.
            RuntimeError: The process ends whenever it is asked.
        """
        request = json.dumps([answer, gold]).encode() + b"\n"
        with self._lock:
            for _ in range(_NUM_STARTS):
                reply = self._reply(request)
                if reply in _REPLIES:
                    return _REPLIES[reply]
                self._end()
                if reply:
                    raise _missing(f"does not work here ({json.loads(reply)})")
        raise RuntimeError(
            f"the process that compares mathematics ends at once; its errors are above: {self._program}"
        )

    def end(self) -> None:
        """End the process; another is started when it is asked again."""
        with self._lock:
            self._end()

    def _leave_to_parent(self) -> None:
        """In a forked process, forget the parent's process, which it still uses: replies would be mixed up."""
        # The parent's lock may be held by a thread that does not exist here.
        self._lock = threading.Lock()
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        process.returncode = 0  # The parent waits for it, not this process.

    def _reply(self, request: bytes) -> bytes:
        """The line that the process replies; empty if it has ended."""
        process = self._process = self._process or _started(self._program)
        assert process.stdin is not None
        assert process.stdout is not None
        reply = b""
        try:
            with suppress(BrokenPipeError):  # the missing reply says the same
                process.stdin.write(request)
                process.stdin.flush()
            reply = process.stdout.readline()
        finally:
            # After an interruption, the late reply would be taken for that of the next request.
            if not reply:
                self._end()
        return reply

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            process.communicate()


def _started(program: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P keeps the file's folder, whose modules have common names, off the path.
        [sys.executable, "-P", "-W", "ignore", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A process that is forked while a request is written would write it again as it closes its copy of a buffer.
        bufsize=0,
        # The order of a set's elements decides which of several simplifications is tried first.
        env={**os.environ, "PYTHONHASHSEED": "0"},
        # A Ctrl-C in the terminal is this process's to handle.
        start_new_session=True,
    )


_PROCESS = MathProcess()
atexit.register(_PROCESS.end)


@lru_cache(maxsize=_NUM_KEPT)
def are_equal(answer: str, gold: str) -> bool:
    """See `MathProcess.ask`."""
    return _PROCESS.ask(answer, gold)
