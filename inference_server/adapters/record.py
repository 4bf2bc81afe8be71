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
        SettingsError: It is there, but cannot be opened or read, in which case what it says may be whole; or it is
            damaged and cannot be set aside, so that the next record would overwrite it.
    """
    path = folder / RECORD_FILE
    try:
        return RegistryRecord.model_validate_json(read_small(path))
    except FileNotFoundError:
        return RegistryRecord()
    except OSError as error:
        raise SettingsError(f"--state-dir {folder}: {RECORD_FILE}: {error.strerror}") from error
    except ValueError:
        lost = "which version was active, the next one's number, and the base's fingerprint"
        try:
            aside = set_aside(path)
        except OSError as error:
            raise SettingsError(
                f"--state-dir {folder}: {RECORD_FILE} is damaged and cannot be renamed ({error.strerror}): move it "
                f"away; it said {lost}"
            ) from error
        _log.warning("record_unreadable", path=str(aside), lost=lost)
    return RegistryRecord()


def write_record(folder: Path, record: RegistryRecord) -> None:
    """Overwrites the record in place with one write: a rename over a file waits for the disk."""
    with os.fdopen(os.open(folder / RECORD_FILE, os.O_WRONLY | os.O_CREAT), "wb") as file:
        file.write(record.model_dump_json().encode().ljust(_RECORD_BYTES))
