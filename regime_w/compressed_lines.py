"""Lines of a file that is plain, gzip or zstd; its suffix says which."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import zstandard

_CHUNK_BYTES = 2**16

DAMAGED = (EOFError, zlib.error, zstandard.ZstdError)
"""What `lines_of` raises, besides OSError, where a file is truncated or not compressed as its suffix says."""


def lines_of(file: BinaryIO, suffix: str) -> Iterable[bytes]:
    """The lines, each with its line feed.

    Args:
        file: Opened at its beginning.
        suffix: In lower case; other than ``.gz`` and ``.zst`` it means plain.

    Raises:
        OSError: The file cannot be read, or is not gzip.
        EOFError: It is truncated.
        zlib.error: It is not gzip, or damaged.
        zstandard.ZstdError: It is not zstd, or damaged.
    """
    match suffix:
        case ".gz":
            return gzip.open(file)
        case ".zst":
            return _zstd_lines(file)
        case _:
            return file


def _zstd_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a sequence of frames. If the last is cut off, zstandard's own readers only end early."""
    pending, frame = b"", None
    while chunk := file.read(_CHUNK_BYTES):
        while chunk:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            *lines, pending = (pending + frame.decompress(chunk)).split(b"\n")
            for line in lines:
                yield line + b"\n"
            chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the last frame is cut off")
    if pending:
        yield pending
