"""Reads the lines of a file that is plain, gzip or zstd, as its suffix says."""

import gzip
import io
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

import zstandard

_CHUNK_BYTES = 2**10
"""Bytes of a compressed file that are read at a time. zstd expands four bytes to up to 128 KiB, so larger chunks could
take gigabytes."""
_BUFFER_BYTES = 2**16

DAMAGED = (EOFError, zlib.error, zstandard.ZstdError)
"""What `lines_of` raises, besides OSError, if a file is truncated or not compressed as its suffix says."""


def lines_of(file: BinaryIO, suffix: str) -> Iterable[bytes]:
    """The lines, each with its line feed.

    Args:
        file: Opened at its beginning.
        suffix: In lower case; any other than ``.gz`` and ``.zst`` means a plain file.

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
            return io.BufferedReader(_ZstdFrames(file), _BUFFER_BYTES)
        case _:
            return file


class _ZstdFrames(io.RawIOBase):
    """Decompresses a sequence of frames. If the last is cut off, zstandard's own readers would only end early."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._rest = b""
        """Bytes that were read from the file beyond the last frame."""
        self._content = memoryview(b"")
        """Bytes that were decompressed and not yet returned."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._content:
            chunk = self._rest or self._file.read(_CHUNK_BYTES)
            if not chunk and self._frame is not None:
                raise EOFError("the last frame is cut off")
            if not chunk:
                return 0
            frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._content = memoryview(frame.decompress(chunk))
            self._rest, self._frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        num_bytes = min(len(buffer), len(self._content))
        buffer[:num_bytes] = self._content[:num_bytes]
        self._content = self._content[num_bytes:]
        return num_bytes
