"""The folder in which a server keeps its adapter files. Loads neither torch nor vllm."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference_server.adapters.record import RECORD_FILE, read_record
from inference_server.adapters.storage import INCOMING_PREFIX, remove_path
from inference_server.wire.settings.errors import SettingsError


@contextmanager
def claim_state_dir(state_dir: Path | None) -> Iterator[Path]:
    """Locks a folder for this server, removes incomplete uploads from it, and checks that its record can be read.

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
        # Opens no link, whose target would be emptied, and does not wait until somebody reads from a pipe.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        lock = os.fdopen(os.open(state_dir / ".lock", flags, 0o666), "wb")
    except (OSError, ValueError) as error:
        raise _unusable(state_dir, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entries = list(state_dir.iterdir())
        except BlockingIOError as error:
            raise SettingsError(
                f"--state-dir {state_dir}: another server uses it; give each its own"
            ) from error
        except OSError as error:
            raise _unusable(state_dir, error) from error
        for entry in entries:
            if entry.name.startswith(INCOMING_PREFIX):
                remove_path(entry)
            elif entry.name == RECORD_FILE and (entry.is_symlink() or not entry.is_file()):
                raise SettingsError(
                    f"--state-dir {state_dir}: {RECORD_FILE} is not a file: remove it"
                )
        # The registry reads it, too, but only once the engine has started, which takes a minute.
        read_record(state_dir)
        yield state_dir.resolve()


def _unusable(state_dir: Path, error: OSError | ValueError) -> SettingsError:
    reason = error.strerror if isinstance(error, OSError) else error
    return SettingsError(f"--state-dir {state_dir}: {reason}")
