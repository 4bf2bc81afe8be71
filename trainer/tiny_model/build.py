"""Writes the tiny base model's folder: in seconds from the weights that come with this project, or trained anew."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from trainer.errors import UsageError
from trainer.io.durable import whole_folder
from trainer.io.kept_settings import CONFIG_FILE
from trainer.model.base_model import hide_progress_bars
from trainer.tiny_model.corpus import train_tokenizer
from trainer.tiny_model.pretraining import TinyModelRecipe, pretrain, untrained_model
from trainer.tiny_model.weights import load_tiny_weights

_MANIFEST = "tiny_model.json"


def build_tiny_model(
    folder: Path,
    recipe: TinyModelRecipe | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, total, loss: None,
    *,
    from_scratch: bool = False,
) -> Path:
    """Write the tiny base model to ``folder``, unless it is already there.

    Args:
        folder: Where ``config.json``, weights and tokenizer go. An outdated model in it is replaced, unless that model
            was trained here.
        recipe: The model's settings; ``num_steps=0`` leaves the weights random, for tests.
        on_step: Called after every training step with step, number of steps and loss. There is no training if the
            weights that come with this project have the same recipe.
        from_scratch: Train the model even then, and even if it is already there.

    Returns:
        The folder, loadable by Transformers and by vLLM.

    Raises:
        UsageError: The folder holds something else or another model that was trained here, or the weights that
            come with this project are damaged.
    """
    hide_progress_bars()
    folder, recipe = folder.absolute(), recipe or TinyModelRecipe()
    digest = recipe.digest()
    manifest = folder / _MANIFEST
    made = json.loads(manifest.read_text()) if manifest.is_file() else {}
    if made.get("digest") == digest and not from_scratch:
        return folder
    if made.get("trained_here") and not from_scratch:
        raise UsageError(
            f"output {folder}: was trained here with other settings or by another version, and runs may need it: remove "
            "it, name another folder, or train it anew with tiny-model --from_scratch"
        )
    found = list(folder.iterdir()) if folder.is_dir() else []
    # The model has no subfolders; runs and SFTs keep their settings in their folders.
    has_others = any(path.is_dir() or path.name == CONFIG_FILE for path in found)
    if found and (has_others or not manifest.is_file()):
        raise UsageError(
            f"output {folder}: has files that are not the tiny model's; name another folder"
        )
    tokenizer, model, is_trained = _model(recipe, on_step, from_scratch=from_scratch)
    written = {"digest": digest, "trained_here": is_trained, "recipe": asdict(recipe)}
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        (unfinished / _MANIFEST).write_text(json.dumps(written, indent=2))
    return folder


def _model(
    recipe: TinyModelRecipe, on_step: Callable[[int, int, float], None], *, from_scratch: bool
) -> tuple[Qwen2Tokenizer, Qwen2ForCausalLM, bool]:
    """Tokenizer and model of a recipe, and whether it was trained here."""
    tokenizer = train_tokenizer(
        vocab_size=recipe.vocab_size, max_length_tokens=recipe.max_position_embeddings
    )
    model = untrained_model(recipe, tokenizer)
    weights = None if from_scratch else load_tiny_weights(recipe.digest())
    if weights is None:
        pretrain(model, tokenizer, recipe, on_step)
    else:
        # The head is missing in the weights, because it is tied to the embedding.
        model.load_state_dict(weights, strict=False)
    return tokenizer, model, weights is None
