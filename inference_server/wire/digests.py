"""SHA-256 digests: 64 lowercase hex digits on the wire and on disk."""

import hashlib
from pathlib import Path

SHA256_PATTERN = "^[0-9a-fA-F]{64}$"
"""What a request may give as a digest; the server goes on with it in lower case."""


def sha256_of_bytes(data: bytes) -> str:
    """Digest of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Digest of a file's content in hex; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
