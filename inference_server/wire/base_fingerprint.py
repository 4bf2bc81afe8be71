"""The base model's files: where they are on this machine, and a fingerprint to compare machines by.

Loads neither torch nor vllm.
"""

import hashlib
import os
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

_CONFIG_FILE = "config.json"
_SAMPLE_BYTES = 2**20


def base_folder(model: str, revision: str | None = None) -> Path | None:
    """Folder of a model's files: the model's own or the one in the Hub's cache; None if not on disk.

    Args:
        model: A folder or a Hub id.
        revision: Revision of the Hub id; None for its main branch.
    """
    # Unlike Path's, this is no error for names that are too long for a file system.
    if os.path.isdir(model):
        return Path(model)
    try:
        cached = try_to_load_from_cache(model, _CONFIG_FILE, revision=revision)
    except ValueError:  # not a Hub id
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def fingerprint(folder: Path) -> str:
    """A digest of configuration and weights that is quick even for many gigabytes.

    Of each weights file it covers only the name, the size and the first and last MiB, in which different
    weights differ too. A folder and the Hub's cache of the same revision have the same fingerprint.
    """
    digest = hashlib.sha256((folder / _CONFIG_FILE).read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
