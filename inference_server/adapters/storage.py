"""The folder that holds adapter files, one subfolder a version.

An upload is written to a hidden folder and renamed to its version's name only when it is whole and
valid; a reader never sees half an adapter. What is in the folder survives the server. Nothing waits for the
disk: if the machine loses its power, a version that is not whole is found by its digest.
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

from inference_server.http.errors import too_large
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, adapter_name

MAX_ADAPTER_CONFIG_BYTES = 2**20
INCOMING_PREFIX = ".incoming-"

_COPY_CHUNK_BYTES = 2**20
# In the format of sha256sum, which can check it.
_DIGEST_FILE = f"{ADAPTER_WEIGHTS_FILE}.sha256"
_RECORD_FILE = "registry.json"
# Filled up with spaces, so that nothing of a longer record is left behind a shorter one.
_RECORD_BYTES = 128
_REFUSED_PREFIX = "refused-"
_VERSION_FOLDER = re.compile(r"policy-([0-9]{6,9})")


class AdapterDamaged(Exception):
    """Files of a version are missing or are not as they were written; the message says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedAdapter:
    """Adapter files on disk that are not served yet."""

    folder: Path
    config_json: bytes
    sha256: str
    """Hex digest of the weights file."""
    size_bytes: int


class RegistryRecord(BaseModel):
    """What the registry remembers over a restart, beside the files."""

    model_config = ConfigDict(frozen=True)

    active_version: int | None = None
    next_version: int = 0


class AdapterFolder:
    """Adapter files under one folder.

    Args:
        root: An existing folder that nobody else writes to.
        max_weights_bytes: Larger weights are not taken.
    """

    def __init__(self, root: Path, max_weights_bytes: int) -> None:
        self._root = root
        self._max_weights_bytes = max_weights_bytes

    def stage(self, config_json: bytes, weights: BinaryIO) -> StagedAdapter:
        """Writes an upload to the folder, under a name that nobody reads.

        Raises:
            ApiError: 413 where the weights are too large.
        """
        folder = Path(tempfile.mkdtemp(prefix=INCOMING_PREFIX, dir=self._root))
        try:
            digest, size_bytes = hashlib.sha256(), 0
            with (folder / ADAPTER_WEIGHTS_FILE).open("wb") as file:
                while chunk := weights.read(_COPY_CHUNK_BYTES):
                    size_bytes += len(chunk)
                    if size_bytes > self._max_weights_bytes:
                        raise too_large(
                            f"the weights have more than {self._max_weights_bytes} bytes",
                            ADAPTER_WEIGHTS_FILE,
                        )
                    digest.update(chunk)
                    file.write(chunk)
            sha256 = digest.hexdigest()
            (folder / ADAPTER_CONFIG_FILE).write_bytes(config_json)
            (folder / _DIGEST_FILE).write_text(f"{sha256}  {ADAPTER_WEIGHTS_FILE}\n")
        except BaseException:
            self.discard(folder)
            raise
        return StagedAdapter(
            folder=folder, config_json=config_json, sha256=sha256, size_bytes=size_bytes
        )

    def path_of(self, version: int) -> Path:
        """Where a version's files are, or would be."""
        return self._root / adapter_name(version)

    def commit(self, staged: StagedAdapter, version: int) -> Path:
        """Gives a staged adapter its version's name, at once and for good."""
        path = self.path_of(version)
        staged.folder.rename(path)
        return path

    def discard(self, folder: Path) -> None:
        """Removes the folder of an upload or of a version, if it is still there."""
        shutil.rmtree(folder, ignore_errors=True)

    def stored_versions(self) -> Sequence[int]:
        """The versions whose files are here, in rising order."""
        matches = (_VERSION_FOLDER.fullmatch(path.name) for path in self._root.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def open_stored(self, version: int) -> StagedAdapter:
        """Reads a stored version, weights included.

        Raises:
            AdapterDamaged: It is not as it was written.
        """
        folder = self.path_of(version)
        try:
            written = (folder / _DIGEST_FILE).read_text().split()[0]
            config_json = (folder / ADAPTER_CONFIG_FILE).read_bytes()
            with (folder / ADAPTER_WEIGHTS_FILE).open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                size_bytes = file.tell()
        except (OSError, IndexError, UnicodeDecodeError) as error:
            raise AdapterDamaged(str(error)) from error
        if sha256 != written:
            raise AdapterDamaged(f"its weights have digest {sha256}, and had {written}")
        return StagedAdapter(
            folder=folder, config_json=config_json, sha256=sha256, size_bytes=size_bytes
        )

    def set_aside(self, version: int) -> Path:
        """Renames a stored version that cannot be served, so that it is neither served nor lost."""
        path = self._root / f"{_REFUSED_PREFIX}{adapter_name(version)}"
        self.discard(path)
        self.path_of(version).rename(path)
        return path

    def read_record(self) -> RegistryRecord:
        """The last record; an empty one where there is none that can be read."""
        try:
            return RegistryRecord.model_validate_json((self._root / _RECORD_FILE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return RegistryRecord()

    def write_record(self, record: RegistryRecord) -> None:
        """Replaces the record, by one write in place: renaming a file over another waits for the disk."""
        with os.fdopen(os.open(self._root / _RECORD_FILE, os.O_WRONLY | os.O_CREAT), "wb") as file:
            file.write(record.model_dump_json().encode().ljust(_RECORD_BYTES))
