"""The folder that keeps adapter files, one subfolder per version.

An upload is written to a hidden folder and renamed to its version's name only when it is complete and
valid, so no reader sees half an adapter. The folder's content survives the server. Writes are not
synced to disk: after a power loss, a version that is incomplete is detected by its digests.
"""

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

import structlog

from inference_server.errors import TooLarge
from inference_server.wire.digests import sha256_of_bytes, sha256_of_file
from inference_server.wire.schemas import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    adapter_name,
)

MAX_ADAPTER_CONFIG_BYTES = 2**20
INCOMING_PREFIX = ".incoming-"
"""Start of the folder names of uploads that are not complete yet."""

_COPY_CHUNK_BYTES = 2**20
# In the format of the sha256sum command, which can check it: a line for the weights and one for the
# configuration.
_DIGEST_FILE = f"{ADAPTER_WEIGHTS_FILE}.sha256"
_RETIRED_FILE = "retired"
_REFUSED_PREFIX = "refused-"
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_VERSION_FOLDER = re.compile(r"policy-([0-9]{6,9})")

_log = structlog.get_logger()


class AdapterDamaged(Exception):
    """Files of a version are missing or have changed on disk; the message says which."""


class AdapterUnreadable(Exception):
    """Files of a version cannot be read, because of permissions or a disk's error; they may be whole."""


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


def remove_path(path: Path) -> None:
    """Removes whatever is at a path (a link, but not its target); ignores failures."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def set_aside(path: Path) -> Path:
    """Renames what cannot be used to a name beside it that is free; returns the new path.

    Raises:
        OSError: That is not permitted; it stays where it is.
    """
    name = f"{_REFUSED_PREFIX}{path.name}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    free = next(p for p in map(path.with_name, names) if not os.path.lexists(p))
    return path.rename(free)


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

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

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
            (folder / _DIGEST_FILE).write_text(
                f"{sha256}  {ADAPTER_WEIGHTS_FILE}\n"
                f"{sha256_of_bytes(upload.config_json)}  {ADAPTER_CONFIG_FILE}\n"
            )
        except BaseException:
            remove_path(folder)
            raise
        return StagedAdapter(
            folder=folder, config_json=upload.config_json, sha256=sha256, size_bytes=size_bytes
        )

    def path_of(self, version: int) -> Path:
        """Folder of a version's files, whether or not it exists."""
        return self._root / adapter_name(version)

    def commit(self, staged: StagedAdapter, version: int) -> Path:
        """Renames a staged adapter's folder to its version's name and returns the new path.

        What stands there is set aside: a version that could not be read, or not be set aside before.
        """
        path = self.path_of(version)
        if os.path.lexists(path):
            self.set_aside(version, "it was not loaded, and another is uploaded in its place")
        staged.folder.rename(path)
        return path

    def mark_retired(self, folder: Path) -> None:
        """Marks a version's files, which are needed for a moment longer, so that a restart does not load them."""
        with suppress(OSError):
            (folder / _RETIRED_FILE).touch()

    def is_retired(self, version: int) -> bool:
        """Whether `mark_retired` marked a stored version's files."""
        return (self.path_of(version) / _RETIRED_FILE).exists()

    def set_aside(self, version: int, reason: str) -> None:
        """Renames the files of a version that cannot be served, with a warning; if they cannot be, they stay."""
        path = self.path_of(version)
        try:
            aside = set_aside(path)
        except OSError as error:
            _log.warning(
                "adapter_left_in_place",
                version=version,
                reason=reason,
                path=str(path),
                problem=error.strerror,
            )
        else:
            _log.warning("adapter_set_aside", version=version, reason=reason, path=str(aside))

    def stored_versions(self) -> Sequence[int]:
        """The versions whose files are in the folder, in ascending order."""
        matches = (_VERSION_FOLDER.fullmatch(path.name) for path in self._root.iterdir())
        # `policy-0000012` holds a number too, but is not the name of any version.
        return sorted(
            n for match in matches if match and adapter_name(n := int(match[1])) == match[0]
        )

    def open_stored(self, version: int) -> StagedAdapter:
        """Reads a stored version and checks its digests.

        Raises:
            AdapterDamaged: Files are missing, have changed or are not regular files.
            AdapterUnreadable: Files cannot be read.
        """
        folder = self.path_of(version)
        weights = folder / ADAPTER_WEIGHTS_FILE
        try:
            if folder.is_symlink():
                raise AdapterDamaged(f"{folder.name} is a link")
            digests = read_small(folder / _DIGEST_FILE).decode().split()
            expected = dict(zip(digests[1::2], digests[::2], strict=False))
            config_json = read_small(folder / ADAPTER_CONFIG_FILE)
            size_bytes = _size_of_file(weights, self._max_weights_bytes)
            sha256 = sha256_of_file(weights)
        except (*_MISSING, ValueError) as error:
            raise AdapterDamaged(str(error)) from error
        except OSError as error:
            raise AdapterUnreadable(str(error)) from error
        found = {ADAPTER_WEIGHTS_FILE: sha256, ADAPTER_CONFIG_FILE: sha256_of_bytes(config_json)}
        if found != expected:
            raise AdapterDamaged(f"its files have the digests {found}, expected {expected}")
        return StagedAdapter(
            folder=folder, config_json=config_json, sha256=sha256, size_bytes=size_bytes
        )


def _size_of_file(path: Path, max_bytes: int) -> int:
    """Size of a regular file of at most ``max_bytes``; reading a pipe or a device might never end.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a regular file, or too large.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a file")
    if status.st_size > max_bytes:
        raise ValueError(f"{path} has more than {max_bytes} bytes")
    return status.st_size


def read_small(path: Path) -> bytes:
    """What a small file holds; raises what `_size_of_file` raises."""
    _size_of_file(path, MAX_ADAPTER_CONFIG_BYTES)
    return path.read_bytes()
