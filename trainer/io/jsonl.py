"""Reads, appends to and repairs files of JSON lines: plain, gzip or zstd, as the file's suffix says.

A compressed file is a sequence of gzip members or zstd frames, one for each appended row, which any
tool reads as one file. So a kill can damage only the last row, which `truncated_bytes` finds and `cut_off` removes.
"""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, Self, TypeVar

import zstandard
from pydantic import BaseModel, ValidationError

from inference_server.wire.json_and_toml import JsonFlaw, check_flaws
from regime_w.compressed_lines import DAMAGED, lines_of
from trainer.errors import DataError, UsageError
from trainer.io.durable import append, write_file
from trainer.io.locks import lock
from trainer.io.paths import open_plain

SUFFIXES = (".jsonl", ".json", ".gz", ".zst")
"""The endings that a file of rows may have."""

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_CHUNK_BYTES = 2**20
_GZIP_BITS = 16 + zlib.MAX_WBITS

_Row = TypeVar("_Row", bound=BaseModel)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1, and without a byte order mark of UTF-8.

    Raises:
        DataError: The file cannot be read, is truncated, is not compressed as its suffix says or is UTF-16.
    """
    for number, line in enumerate(raw_lines(path), 1):
        if text := line.removeprefix(_BOM).strip():
            yield number, text


def raw_lines(path: Path) -> Iterator[bytes]:
    """All lines as they are, decompressed.

    Raises:
        DataError: See `read_lines`.
    """
    suffix = _suffix(path)
    try:
        with open(path, "rb", opener=open_plain) as file:
            for number, line in enumerate(lines_of(file, suffix), 1):
                if line.startswith(_UTF_16):
                    raise DataError(f"{path}:{number}: UTF-16; save the file as UTF-8")
                yield line
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except DAMAGED as error:
        raise DataError(f"{path}: truncated or not {suffix[1:]}: {error}") from None


def read_rows(path: Path, row: type[_Row]) -> Iterator[tuple[int, _Row]]:
    """The lines of a file that this program has written, as models, with their numbers from 1.

    Raises:
        DataError: The file cannot be read, or a line is not such a row; names the line and the field.
    """
    for number, line in read_lines(path):
        yield number, parse_own_row(row, line, f"{path}:{number}")


def parse_row(row: type[_Row], line: bytes, where: str) -> _Row:
    """Read one line, which others may have written, as a model.

    Raises:
        DataError: The line is not such a row, or one of its fields, whether it is used or not, is given twice, NaN or
            infinite. The message names ``where`` and the field.
    """
    found = parse_own_row(row, line, where)
    try:
        check_flaws(line)
    except JsonFlaw as error:
        raise DataError(f"{where}: {error}") from None
    return found


def parse_own_row(row: type[_Row], line: bytes, where: str) -> _Row:
    """Read one line, which some release of this program has written, as a model.

    Raises:
        DataError: The line is not such a row. The message names ``where`` and the field.
    """
    try:
        return row.model_validate_json(line)
    except ValidationError as error:
        try:
            line.decode()
        except UnicodeDecodeError:
            raise DataError(f"{where}: not UTF-8; save the file as UTF-8") from None
        raise row_error(error, where) from None


def row_error(error: ValidationError, where: str) -> DataError:
    """The first problem of a row, in one line: where the row is, which field, and what is wrong."""
    first = error.errors()[0]
    if first["type"] == "value_error" and not first["loc"]:
        return DataError(f"{where}: {first['msg'].removeprefix('Value error, ')}")
    field = ".".join(map(str, first["loc"])) or "line"
    return DataError(f"{where}: {field}: {first['msg'].removeprefix('Value error, ')}")


def _suffix(path: Path) -> str:
    """The ending that says how a file is compressed; ``.GZ`` is gzip too."""
    return path.suffix.lower()


def write_jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Replace a file by rows, one JSON object a line."""
    write_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


class JsonlAppender:
    """Appends rows to a file. A row survives the end of the process at once, but a power cut only after the close."""

    def __init__(self, path: Path):
        """Create the file and its folder if they are missing; no other process can append to it until the close.

        Raises:
            UsageError: Another process appends to the file.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        # A link to the file stays if the file is removed.
        self._path, self._suffix = Path(os.path.realpath(path)), _suffix(path)
        self._is_new = not path.exists()
        self._file = path.open("ab", buffering=0)
        try:
            lock(
                self._file,
                path,
                taken=f"another process appends to {path}; stop it, or choose another output",
            )
        except UsageError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """Nothing to do: the file is open."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait until every row is on the disk, and close; a new file without a row is removed."""
        with self._file:
            os.fsync(self._file.fileno())
            if self._is_new and not os.fstat(self._file.fileno()).st_size:
                self._path.unlink(missing_ok=True)

    def append(self, row: Mapping[str, object]) -> None:
        """Append one row, as a line, member or frame of its own; if that fails, such as on a full disk, none of it."""
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        if self._suffix == ".gz":
            line = gzip.compress(line, mtime=0)
        elif self._suffix == ".zst":
            line = zstandard.ZstdCompressor().compress(line)
        append(self._file, line, wait=False)


def truncated_bytes(path: Path) -> int:
    """How many bytes at the end of a file that was appended to belong to no complete row.

    Raises:
        DataError: The file cannot be read, does not begin as rows do, or is not compressed as its suffix says.
    """
    suffix = _suffix(path)
    try:
        with open(path, "rb", opener=open_plain) as file:
            head = file.read(_CHUNK_BYTES)
            if suffix in (".gz", ".zst"):
                head = _decompressor(suffix).decompress(head)
            head = head.removeprefix(_BOM).lstrip()
            if head and not head.startswith(b"{"):
                raise DataError(
                    f"{path}: not a file of rows, which begin with {{; choose another file"
                )
            file.seek(0)
            num_complete = _complete_bytes(file, suffix)
            return file.seek(0, os.SEEK_END) - num_complete
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path}: not {suffix[1:]}: {error}") from None


def cut_off(path: Path, num_bytes: int) -> None:
    """Remove bytes from the end of a file.

    Raises:
        DataError: The file cannot be written to.
    """
    try:
        os.truncate(path, path.stat().st_size - num_bytes)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


class _Decompressor(Protocol):
    """What zlib's and zstandard's decompressors have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _complete_bytes(file: BinaryIO, suffix: str) -> int:
    """How many bytes of the file belong to complete rows."""
    complete = position = 0
    part: _Decompressor | None = None
    while chunk := file.read(_CHUNK_BYTES):
        if suffix not in (".gz", ".zst") and b"\n" in chunk:
            complete = position + chunk.rindex(b"\n") + 1
        position += len(chunk)
        while chunk and suffix in (".gz", ".zst"):
            if part is None:
                part = _decompressor(suffix)
            part.decompress(chunk)
            if not part.eof:
                break
            chunk = part.unused_data
            complete, part = position - len(chunk), None
    return complete


def _decompressor(suffix: str) -> _Decompressor:
    if suffix == ".gz":
        return zlib.decompressobj(_GZIP_BITS)
    return zstandard.ZstdDecompressor().decompressobj()
