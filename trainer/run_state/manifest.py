"""A checkpoint's manifest: tells whether the files are as they were written, and whether their numbers are finite."""

import math
import stat
import sys
from pathlib import Path
from pickle import UnpicklingError

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from inference_server.wire.digests import sha256_of_file
from trainer.errors import CheckpointError

STATE_FILE = "state.pt"

_MANIFEST_FILE = "manifest.json"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    size_bytes: int
    sha256: str


class _Manifest(BaseModel):
    """``manifest.json``: sizes and digests of a checkpoint's other files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    torch: str
    """PyTorch's version; another one may round differently."""
    device: str
    """The type of device that computed it, ``cpu`` or ``cuda``; another one rounds differently."""
    files: dict[str, _File]


def write_manifest(folder: Path, *, step: int, device: str) -> None:
    """Write the manifest of a checkpoint whose state is written.

    Args:
        folder: The checkpoint's folder.
        step: Its step.
        device: The type of the device that computed it.
    """
    manifest = _Manifest(
        step=step,
        torch=torch.__version__,
        device=device,
        files={STATE_FILE: _measure(folder / STATE_FILE)},
    )
    (folder / _MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")


def _measure(path: Path) -> _File:
    return _File(size_bytes=path.stat().st_size, sha256=sha256_of_file(path))


def verify_checkpoint(folder: Path) -> None:
    """Compare every file with the manifest, and check numbers that nothing else checks.

    Raises:
        CheckpointError: A file is missing, truncated, changed or not a plain file, or a number is not finite.
    """
    try:
        damaged = _damaged_file(folder)
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder}: {error.strerror}") from error
    if damaged is not None:
        raise CheckpointError(f"checkpoint {folder}: {damaged} is damaged")


def _damaged_file(folder: Path) -> str | None:
    """The first file that is not as it was written; raises OSError if one is missing."""
    manifest = _read_manifest(folder)
    # Other names in the manifest are not followed, since they could lead out of the folder.
    if manifest is None or manifest.files.keys() != {STATE_FILE}:
        return _MANIFEST_FILE
    state, written = folder / STATE_FILE, manifest.files[STATE_FILE]
    # Type and size are checked before reading, since a device or a pipe may have no end.
    if not _is_plain_file(state) or state.stat().st_size != written.size_bytes:
        return STATE_FILE
    if _measure(state) != written or not _is_usable(state):
        return STATE_FILE
    return None


def _read_manifest(folder: Path) -> _Manifest | None:
    path = folder / _MANIFEST_FILE
    if not _is_plain_file(path):
        return None
    try:
        return _Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def _is_plain_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _is_usable(path: Path) -> bool:
    """Whether a state can be read, its KL coefficient is a number and no number in it is NaN or infinite."""
    try:
        state = torch.load(path, weights_only=True, mmap=True)
        return isinstance(state["kl_coef"], int | float) and _is_finite(state)
    except (UnpicklingError, EOFError, LookupError, RuntimeError, ValueError, TypeError):
        return False


def _is_finite(state: object) -> bool:
    """Whether every number in nested containers, and every element of tensors, is finite as a float."""
    seen: set[int] = set()
    unseen: list[object] = [state]
    while unseen:
        part = unseen.pop()
        if isinstance(part, dict | list | tuple):
            # A damaged pickle may hold a container that holds itself.
            if id(part) not in seen:
                seen.add(id(part))
                unseen.extend(part.values() if isinstance(part, dict) else part)
        elif isinstance(part, torch.Tensor):
            if part.is_floating_point() and not bool(part.isfinite().all()):
                return False
        elif (isinstance(part, float) and not math.isfinite(part)) or (
            isinstance(part, int) and abs(part) > sys.float_info.max
        ):
            return False
    return True


def computed_with(folder: Path) -> tuple[str, str]:
    """The version of PyTorch, and the type of the device, that computed an undamaged checkpoint."""
    manifest = _Manifest.model_validate_json((folder / _MANIFEST_FILE).read_bytes())
    return manifest.torch, manifest.device
