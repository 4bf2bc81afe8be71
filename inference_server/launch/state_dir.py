"""The folder that a server keeps its adapter files in. Loads neither torch nor vllm."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference_server.settings import SettingsError

# Uploads that were not finished.
_LEFTOVERS = ".incoming-*"


@contextmanager
def claim_state_dir(state_dir: Path | None) -> Iterator[Path]:
    """Holds a folder for this server alone.

    Adapters of an earlier start stay; the registry loads them again.

    Args:
        state_dir: The folder, made where it does not exist; None takes a fresh temporary one, which
            is removed at the end.

    Raises:
        SettingsError: The folder cannot be used, or another server uses it.
    """
    if state_dir is None:
        with tempfile.TemporaryDirectory(prefix="regime-w-adapters-") as temporary:
            yield Path(temporary)
        return
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = (state_dir / ".lock").open("wb")
    except OSError as error:
        raise SettingsError(f"--state-dir {state_dir}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(
                f"--state-dir {state_dir}: another server uses it; give each its own"
            ) from error
        for leftover in state_dir.glob(_LEFTOVERS):
            shutil.rmtree(leftover)
        yield state_dir.resolve()
