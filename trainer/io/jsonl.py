"""JSON lines on disk: plain, gzip or zstd by the file's suffix; appended to, read and repaired.

A compressed file is a row of gzip members or zstd frames, one an appended row, which any tool reads
as one file. So a kill can tear the last row alone, and `repair` cuts that off.
"""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

import zstandard

from trainer.errors import DataError

SUFFIXES = (".jsonl", ".json", ".gz", ".zst")
"""What a file of rows may end in."""

_CHUNK_BYTES = 2**20
_GZIP_BITS = 16 + zlib.MAX_WBITS


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1.

    Raises:
        DataError: The file cannot be read, or is torn or no such compression.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_decompressed(file, path.suffix), 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path}: torn or not {path.suffix[1:]}: {error}") from None


def _decompressed(file: BinaryIO, suffix: str) -> Iterable[bytes]:
    if suffix == ".gz":
        return gzip.open(file)
    if suffix == ".zst":
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return io.BufferedReader(reader)
    return file


def write_jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows to a file of one JSON object a line, whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    unfinished.replace(path)


class JsonlAppender:
    """Adds rows to the end of a file, each on disk (but for the machine's own failure) at once."""

    def __init__(self, path: Path):
        """Made where it is missing, as is its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._suffix = path.suffix
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def append(self, row: Mapping[str, object]) -> None:
        """One row, as a line, member or frame of its own."""
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        if self._suffix == ".gz":
            line = gzip.compress(line, mtime=0)
        elif self._suffix == ".zst":
            line = zstandard.ZstdCompressor().compress(line)
        self._file.write(line)


def repair(path: Path) -> int:
    """Cut off the torn row at the end of a file that was appended to; returns how many bytes it had.

    Raises:
        DataError: The file cannot be read or is no such compression.
    """
    try:
        with path.open("r+b") as file:
            whole = _whole_bytes(file, path.suffix)
            num_torn = file.seek(0, os.SEEK_END) - whole
            if num_torn:
                file.truncate(whole)
            return num_torn
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path}: not {path.suffix[1:]}: {error}") from None


class _Decompressor(Protocol):
    """What zlib's and zstandard's decompressors have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _whole_bytes(file: BinaryIO, suffix: str) -> int:
    """How many bytes of the file whole rows take."""
    if suffix not in (".gz", ".zst"):
        whole = position = 0
        while chunk := file.read(_CHUNK_BYTES):
            if b"\n" in chunk:
                whole = position + chunk.rindex(b"\n") + 1
            position += len(chunk)
        return whole
    whole = position = 0
    part: _Decompressor | None = None
    while chunk := file.read(_CHUNK_BYTES):
        position += len(chunk)
        while chunk:
            if part is None:
                part = _decompressor(suffix)
            part.decompress(chunk)
            if not part.eof:
                break
            chunk = part.unused_data
            whole, part = position - len(chunk), None
    return whole


def _decompressor(suffix: str) -> _Decompressor:
    if suffix == ".gz":
        return zlib.decompressobj(_GZIP_BITS)
    return zstandard.ZstdDecompressor().decompressobj()
