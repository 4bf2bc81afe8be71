"""Copies of a base model that a test may change."""

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

_WEIGHTS = "model.safetensors"


def copy_of(base: Path, folder: Path) -> Path:
    """The same base in another place."""
    return shutil.copytree(base, folder)


def retrain(base: Path) -> Path:
    """Change one weight of a base in place, as another revision of it does."""
    tensors = load_file(base / _WEIGHTS)
    tensors["model.norm.weight"][0] += 1.0
    save_file(tensors, base / _WEIGHTS, {"format": "pt"})
    return base
