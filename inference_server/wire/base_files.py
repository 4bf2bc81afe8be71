"""The base model's files: where they are, on this machine or the Hub, and a fingerprint to compare machines by.

Loads neither torch nor vllm.
"""

import hashlib
import json
import os
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

_HUB_TIMEOUT_S = 10.0
_CONFIG_FILE = "config.json"
_INDEX_FILE = "model.safetensors.index.json"
_SAMPLE_BYTES = 2**20


def base_folder(model: str, revision: str | None = None) -> Path | None:
    """Folder of a model's files: the model's own or the one in the Hub's cache; None if not on disk.

    Args:
        model: A folder or a Hub id.
        revision: Revision of the Hub id; None for its main branch.
    """
    # Unlike `Path.is_dir`, this raises no error for names that are too long for a file system.
    if os.path.isdir(model):
        return Path(model)
    try:
        cached = try_to_load_from_cache(model, _CONFIG_FILE, revision=revision)
    except ValueError:  # not a Hub id
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def why_not_on_hub(model: str) -> str | None:
    """Why a model that is not on this machine cannot be downloaded, in a few words; None if the Hub has it.

    A download itself would retry for the better part of a minute before it fails.

    Args:
        model: A Hub id.
    """
    # They take longer to import than most commands need to fail.
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.constants import HF_HUB_OFFLINE  # noqa: PLC0415

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set; download it first, or name a folder"
    try:
        HfApi().model_info(model, timeout=_HUB_TIMEOUT_S)
    except Exception as error:  # the possible types depend on the library's version
        reason = " ".join(str(error).split())
        return f"the Hub does not give it ({reason}); name a folder, or download it where there is a network"
    return None


def fingerprint(folder: Path) -> str:
    """A digest of configuration and weights that is quick even for many gigabytes.

    Of each weights file it covers only the name, the size and the first and last MiB, in which different weights differ
    too. If there is an index, files that it does not name are left out, and of the configuration the version of
    Transformers that wrote it. A folder and the Hub's cache of the same revision have the same fingerprint.
    """
    digest = hashlib.sha256(_configuration(folder))
    for path in _weights_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _configuration(folder: Path) -> bytes:
    content = (folder / _CONFIG_FILE).read_bytes()
    try:
        found = json.loads(content)
        found.pop("transformers_version", None)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return content
    return json.dumps(found, sort_keys=True).encode()


def _weights_files(folder: Path) -> list[Path]:
    """The model's files of weights, in order: those of its index, or without a usable one all safetensors files."""
    try:
        return sorted(folder / name for name in _indexed(folder))
    except (OSError, ValueError):
        return sorted(folder.glob("*.safetensors"))


def _indexed(folder: Path) -> set[str]:
    """The names of the files of weights in a model's index; raises OSError or ValueError if there is no usable one."""
    try:
        names = json.loads((folder / _INDEX_FILE).read_bytes())["weight_map"].values()
        return {Path(name).name for name in names}
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("no index of weights") from error


def known_fingerprint(model: str, revision: str | None = None) -> str | None:
    """Fingerprint of a model's files; None if not all of them are on disk, as before the end of a download.

    Args:
        model: A folder or a Hub id.
        revision: Revision of the Hub id; None for its main branch.
    """
    folder = base_folder(model, revision)
    try:
        return fingerprint(folder) if folder is not None and _has_weights(folder) else None
    except OSError:
        return None


def _has_weights(folder: Path) -> bool:
    """Whether the files that the index names are there, or without an index any weights file."""
    try:
        return all((folder / name).is_file() for name in _indexed(folder))
    except FileNotFoundError:
        return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin"))
    except ValueError:
        return False
