"""How the tiny base model is trained from scratch: a Qwen2 of about a million parameters.

The same settings give the same weights on the same machine with the same number of threads. Its
tokenizer and its corpus are in `trainer.tiny_model.corpus`.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from inference_server.wire.digests import sha256_of_bytes
from trainer.tiny_model.corpus import batches

_VERSION = 1
"""Raise it when the tokenizer, the corpus or the training loop change: models that were made before are then out of
date, as are the weights that come with this project (`trainer.tiny_model.weights`)."""


@dataclass(frozen=True, kw_only=True)
class TinyModelRecipe:
    """All settings that determine the weights of the tiny base model."""

    vocab_size: int = 512
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    max_position_embeddings: int = 512
    num_steps: int = 600
    batch_size: int = 48
    """Word problems in a step."""
    num_drills: int = 16
    """Rows of bare equations in a step, in addition, from which the model learns arithmetic faster."""
    learning_rate: float = 3e-3
    seed: int = 0

    def digest(self) -> str:
        """Identifies the settings and the version of the code, so that an outdated model is rebuilt."""
        settings = {"version": _VERSION, **asdict(self)}
        return sha256_of_bytes(json.dumps(settings, sort_keys=True).encode())


def untrained_model(recipe: TinyModelRecipe, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """The architecture with random weights."""
    torch.manual_seed(recipe.seed)
    config = Qwen2Config(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.hidden_size * 4,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=recipe.max_position_embeddings,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config)


def pretrain(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    recipe: TinyModelRecipe,
    on_step: Callable[[int, int, float], None],
) -> None:
    """Train all weights.

    Args:
        model: The model of `untrained_model`.
        tokenizer: The corpus's tokenizer.
        recipe: The recipe that the model and the tokenizer were made with.
        on_step: Called after every step with step, number of steps and loss.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    warmup = 50

    def schedule(step: int) -> float:
        progress = max(0.0, (step - warmup) / max(1, recipe.num_steps - warmup))
        return min(1.0, (step + 1) / warmup) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
        )

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    rows = batches(
        tokenizer,
        num_problems=recipe.batch_size,
        num_drills=recipe.num_drills,
        seed=recipe.seed,
    )
    model.train()
    for step in range(recipe.num_steps):
        input_ids, labels = next(rows)
        # Padding is on the right and the attention causal, so real tokens never see it.
        loss = model(input_ids=input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(step + 1, recipe.num_steps, loss.item())
