"""Makes a tiny base model that was trained on this machine the one that ships with the project.

Run it whenever the recipe or its version changes (a unit test says so):

    .venv/bin/python -m trainer tiny-model --from_scratch --output models/tiny-new
    PYTHONPATH=. .venv/bin/python scripts/ship_tiny_model.py models/tiny-new
"""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file

from trainer.tiny_model.weights import TINY_WEIGHTS, save_tiny_weights


def main(folder: Path) -> None:
    """Take the weights of a folder that ``tiny-model --from_scratch`` wrote."""
    manifest = json.loads((folder / "tiny_model.json").read_text())
    if not manifest["trained_here"]:
        sys.exit(f"{folder} was not trained here: give --from_scratch to tiny-model")
    save_tiny_weights(load_file(folder / "model.safetensors"), manifest["digest"])
    print(f"{TINY_WEIGHTS}: {TINY_WEIGHTS.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
