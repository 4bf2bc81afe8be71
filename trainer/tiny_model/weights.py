"""The tiny base model's weights that come with this project, so that a demo need not train the model for minutes.

They were trained by `trainer.tiny_model.pretraining` and rounded to bfloat16. ``scripts/ship_tiny_model.py`` writes
the file.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inference_server.wire.digests import sha256_of_bytes
from trainer.errors import UsageError

TINY_WEIGHTS = Path(__file__).parent / "tiny_base.safetensors"
"""The weights; its metadata has the digests of the recipe and of the weights."""
_DIGEST = "recipe_digest"
_SHA256 = "weights_sha256"


def load_tiny_weights(digest: str) -> dict[str, torch.Tensor] | None:
    """The weights in float32, by name; None if they belong to another recipe.

    Args:
        digest: Digest of the recipe.

    Raises:
        UsageError: The file is missing or damaged.
    """
    try:
        with safe_open(TINY_WEIGHTS, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{_damaged()} ({' '.join(str(error).split())})") from None
    if metadata.get(_DIGEST) != digest:
        return None
    if metadata.get(_SHA256) != _sha256(weights):
        raise UsageError(_damaged())
    return {name: weight.float() for name, weight in weights.items()}


def save_tiny_weights(weights: dict[str, torch.Tensor], digest: str) -> None:
    """Replace the weights that come with this project.

    Args:
        weights: The weights by name; tied weights only once.
        digest: Digest of their recipe.
    """
    rounded = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    save_file(rounded, TINY_WEIGHTS, metadata={_DIGEST: digest, _SHA256: _sha256(rounded)})


def _sha256(weights: dict[str, torch.Tensor]) -> str:
    parts = (
        weights[name].contiguous().view(torch.uint8).numpy().tobytes() for name in sorted(weights)
    )
    return sha256_of_bytes(b"".join(parts))


def _damaged() -> str:
    return (
        f"{TINY_WEIGHTS} is damaged: restore it by git checkout or by installing again, or train the model with "
        "tiny-model --from_scratch"
    )
