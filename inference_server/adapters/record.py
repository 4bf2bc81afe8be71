"""The file in which the registry keeps, across restarts, what the adapter files do not say."""

import os
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, Field

from inference_server.adapters.storage import read_small, set_aside
from inference_server.wire.adapters.references import NUM_VERSIONS
from inference_server.wire.settings.errors import SettingsError

RECORD_FILE = "registry.json"
"""Name of the file in the registry's folder."""

# Padded with spaces, so that a short record overwrites all of a longer one.
_RECORD_BYTES = 128

_log = structlog.get_logger()


class RegistryRecord(BaseModel):
    """What the registry keeps across restarts besides the adapter files."""

    model_config = ConfigDict(frozen=True)

    active_version: int | None = Field(default=None, ge=0, lt=NUM_VERSIONS)
    next_version: int = Field(default=0, ge=0, le=NUM_VERSIONS)
    base_fingerprint: str | None = Field(default=None, max_length=32)
    """Fingerprint of the base that the versions are adapters of; None if it is not known."""


def read_record(folder: Path) -> RegistryRecord:
    """The last record; an empty one if there is none. A damaged one is set aside with a warning.

    Raises:
        SettingsError: It is there, but cannot be opened or read.
    """
    path = folder / RECORD_FILE
    try:
        return RegistryRecord.model_validate_json(read_small(path))
    except FileNotFoundError:
        return RegistryRecord()
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError:
        lost = "which version was active, the next one's number, and the base's fingerprint"
        _log.warning("record_unreadable", path=str(set_aside(path)), lost=lost)
    return RegistryRecord()


def unreadable(path: Path, error: OSError) -> SettingsError:
    """The error of a record that cannot be opened or read: what it says may be whole."""
    return SettingsError(f"--state-dir {path.parent}: {path.name}: {error.strerror}")


def write_record(folder: Path, record: RegistryRecord) -> None:
    """Overwrites the record in place with one write: a rename over a file waits for the disk."""
    with os.fdopen(os.open(folder / RECORD_FILE, os.O_WRONLY | os.O_CREAT), "wb") as file:
        file.write(record.model_dump_json().encode().ljust(_RECORD_BYTES))
