"""SHA-256 digests: 64 lowercase hex digits on the wire and on disk."""

import hashlib
from pathlib import Path


def sha256_of_bytes(data: bytes) -> str:
    """Digest of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Digest of a file's content in hex; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
