"""The folder in which a server keeps its adapter files. Loads neither torch nor vllm."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference_server.adapters.storage import INCOMING_PREFIX
from inference_server.wire.settings_errors import SettingsError


@contextmanager
def claim_state_dir(state_dir: Path | None) -> Iterator[Path]:
    """Locks a folder for this server and removes incomplete uploads from it.

    Adapters of an earlier server stay; the registry restores them.

    Args:
        state_dir: The folder, created if missing; None makes a temporary one that is removed at the end.

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
        for incomplete in state_dir.glob(f"{INCOMING_PREFIX}*"):
            shutil.rmtree(incomplete)
        yield state_dir.resolve()
