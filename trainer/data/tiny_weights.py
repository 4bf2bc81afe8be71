"""The tiny base model's weights that come with this project, so that a demo need not train it for minutes.

They are those of `trainer.commands.tiny_pretraining`, rounded to bfloat16. ``scripts/ship_tiny_model.py`` makes the file.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

TINY_WEIGHTS = Path(__file__).parent / "tiny_base.safetensors"
"""The weights; its metadata has the digest of the recipe."""
_DIGEST = "recipe_digest"


def load_tiny_weights(digest: str) -> dict[str, torch.Tensor] | None:
    """The weights in float32 by their names; None where they are of another recipe.

    Args:
        digest: Of the recipe.
    """
    with safe_open(TINY_WEIGHTS, framework="pt") as file:
        if file.metadata()[_DIGEST] != digest:
            return None
        return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no dict


def save_tiny_weights(weights: dict[str, torch.Tensor], digest: str) -> None:
    """Replace the weights that come with this project.

    Args:
        weights: By their names; tied weights once.
        digest: Of their recipe.
    """
    rounded = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    save_file(rounded, TINY_WEIGHTS, metadata={_DIGEST: digest})
