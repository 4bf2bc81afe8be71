"""The folder that keeps adapter files, one subfolder per version.

An upload is written to a hidden folder and renamed to its version's name only when it is complete and
valid, so no reader sees half an adapter. The folder's content survives the server. Writes are not
synced to disk: after a power loss, a version that is incomplete is detected by its digest.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from inference_server.errors import TooLarge
from inference_server.wire.digests import sha256_of_file
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, adapter_name

MAX_ADAPTER_CONFIG_BYTES = 2**20
INCOMING_PREFIX = ".incoming-"
"""Start of the folder names of uploads that are not complete yet."""

_COPY_CHUNK_BYTES = 2**20
# In the format of the sha256sum command, which can check it.
_DIGEST_FILE = f"{ADAPTER_WEIGHTS_FILE}.sha256"
_RECORD_FILE = "registry.json"
# Padded with spaces, so that a short record overwrites all of a longer one.
_RECORD_BYTES = 128
_REFUSED_PREFIX = "refused-"
_VERSION_FOLDER = re.compile(r"policy-([0-9]{6,9})")


class AdapterDamaged(Exception):
    """Files of a version are missing or have changed on disk; the message says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """An adapter as the client sent it; nothing is verified yet."""

    config_json: bytes
    weights: BinaryIO
    """Open while the request body is."""
    sha256: str
    """Hex digest of the weights file as the client states it, in lower case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedAdapter:
    """Adapter files on disk that are not served yet."""

    folder: Path
    config_json: bytes
    sha256: str
    """Hex digest of the weights file."""
    size_bytes: int
    """Size of the weights file."""


class RegistryRecord(BaseModel):
    """What the registry keeps across restarts besides the adapter files."""

    model_config = ConfigDict(frozen=True)

    active_version: int | None = None
    next_version: int = 0


class AdapterFolder:
    """Adapter files under one folder.

    Args:
        root: An existing folder to which no other process writes.
        max_weights_bytes: Largest weights file that is accepted.
    """

    def __init__(self, root: Path, max_weights_bytes: int) -> None:
        """See the class."""
        self._root = root
        self._max_weights_bytes = max_weights_bytes

    def stage(self, upload: Upload) -> StagedAdapter:
        """Writes an upload to a new hidden folder.

        Raises:
            TooLarge: The weights exceed the limit.
        """
        folder = Path(tempfile.mkdtemp(prefix=INCOMING_PREFIX, dir=self._root))
        try:
            digest, size_bytes = hashlib.sha256(), 0
            with (folder / ADAPTER_WEIGHTS_FILE).open("wb") as file:
                while chunk := upload.weights.read(_COPY_CHUNK_BYTES):
                    size_bytes += len(chunk)
                    if size_bytes > self._max_weights_bytes:
                        raise TooLarge(
                            f"the weights have more than {self._max_weights_bytes} bytes",
                            ADAPTER_WEIGHTS_FILE,
                        )
                    digest.update(chunk)
                    file.write(chunk)
            sha256 = digest.hexdigest()
            (folder / ADAPTER_CONFIG_FILE).write_bytes(upload.config_json)
            (folder / _DIGEST_FILE).write_text(f"{sha256}  {ADAPTER_WEIGHTS_FILE}\n")
        except BaseException:
            self.discard(folder)
            raise
        return StagedAdapter(
            folder=folder, config_json=upload.config_json, sha256=sha256, size_bytes=size_bytes
        )

    def path_of(self, version: int) -> Path:
        """Folder of a version's files, whether or not it exists."""
        return self._root / adapter_name(version)

    def commit(self, staged: StagedAdapter, version: int) -> Path:
        """Renames a staged adapter's folder to its version's name and returns the new path."""
        path = self.path_of(version)
        staged.folder.rename(path)
        return path

    def discard(self, folder: Path) -> None:
        """Removes the folder of an upload or a version if it exists."""
        shutil.rmtree(folder, ignore_errors=True)

    def stored_versions(self) -> Sequence[int]:
        """The versions whose files are in the folder, in ascending order."""
        matches = (_VERSION_FOLDER.fullmatch(path.name) for path in self._root.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def open_stored(self, version: int) -> StagedAdapter:
        """Reads a stored version and checks its digest.

        Raises:
            AdapterDamaged: Files are missing or have changed.
        """
        folder = self.path_of(version)
        weights = folder / ADAPTER_WEIGHTS_FILE
        try:
            expected = (folder / _DIGEST_FILE).read_text().split()[0]
            config_json = (folder / ADAPTER_CONFIG_FILE).read_bytes()
            sha256, size_bytes = sha256_of_file(weights), weights.stat().st_size
        except (OSError, IndexError, UnicodeDecodeError) as error:
            raise AdapterDamaged(str(error)) from error
        if sha256 != expected:
            raise AdapterDamaged(f"the weights have digest {sha256}, expected {expected}")
        return StagedAdapter(
            folder=folder, config_json=config_json, sha256=sha256, size_bytes=size_bytes
        )

    def set_aside(self, version: int) -> Path:
        """Renames a stored version that cannot be served, to keep its files; returns the new path."""
        path = self._root / f"{_REFUSED_PREFIX}{adapter_name(version)}"
        self.discard(path)
        self.path_of(version).rename(path)
        return path

    def read_record(self) -> RegistryRecord:
        """The last record; an empty one if there is none or it cannot be read."""
        try:
            return RegistryRecord.model_validate_json((self._root / _RECORD_FILE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return RegistryRecord()

    def write_record(self, record: RegistryRecord) -> None:
        """Overwrites the record in place with one write: a rename over a file waits for the disk."""
        with os.fdopen(os.open(self._root / _RECORD_FILE, os.O_WRONLY | os.O_CREAT), "wb") as file:
            file.write(record.model_dump_json().encode().ljust(_RECORD_BYTES))
