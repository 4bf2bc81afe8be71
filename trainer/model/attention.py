"""Which earlier tokens the layers of a base model see, and whether the model can compute prefix trees."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.errors import UsageError
from trainer.model.base_files import reading_base
from trainer.model.batches.batch import TokenRows

_FULL, _SLIDING = "full_attention", "sliding_attention"
"""Transformers' names for kinds of layers in ``layer_types``; models with both kinds take a mask under each name."""
_CAPPED = (
    *("attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap"),
    *("logit_scale", "logits_scaling", "lm_head_multiplier"),
)
"""Settings of models that change scores or logits in ways that the trainer does not compute."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Which earlier tokens the layers of a base model see.

    In a prefix tree, the tokens before a token are its ancestors, and their distance is the difference of the
    positions. Full attention and sliding windows are therefore masks. A layer that carries a state from token to
    token (linear attention, convolutions) sees whatever stands to the left in its row, so that the rows of such a
    model hold one sequence each.
    """

    shares_prefixes: bool = True
    """Whether several sequences may share the tokens of a common prefix in a row."""
    window: int | None = None
    """How many tokens a layer with a sliding window attends to, including the token itself; None without windows."""
    is_mixed: bool = False
    """Whether the model also has layers that attend to all earlier tokens."""

    def inputs(self, rows: TokenRows) -> dict[str, Any]:
        """Positions and masks in the form that Transformers' models take."""
        if not self.shares_prefixes:
            # Without positions and masks, the models assume one sequence in each row. Padding is on the right, so
            # that no token whose state is read sees it.
            return {}
        return {"position_ids": rows.position_ids, "attention_mask": self._masks(rows)}

    def _masks(self, rows: TokenRows) -> Tensor | dict[str, Tensor]:
        """[R, 1, W, W] bool; one mask for each kind of layer if the model has both kinds."""
        if self.window is None:
            return rows.attention_mask
        windowed = rows.windowed_mask(self.window)
        return {_FULL: rows.attention_mask, _SLIDING: windowed} if self.is_mixed else windowed


def attention_of(model: Any, base_model: str) -> Attention:
    """Which earlier tokens a base model's layers see.

    Args:
        model: The loaded Transformers model.
        base_model: Its name, for errors.

    Raises:
        UsageError: The model caps or scales scores or logits, or its attention cannot take a prefix tree's mask.
    """
    name, config = f"policy.base_model {base_model}", model.config
    for setting in _CAPPED:
        if (value := getattr(config, setting, None)) not in (None, 1.0):
            raise UsageError(f"{name}: {setting} = {value}, which the trainer does not compute")
    if needs_own_rows(model):
        return Attention(shares_prefixes=False)
    if config._attn_implementation != "sdpa":
        raise UsageError(
            f"{name}: its attention is {config._attn_implementation!r}; prefix trees need 'sdpa', which this "
            "model does not have"
        )
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if window is None or kinds == {_FULL}:
        return Attention()
    return Attention(window=window, is_mixed=_FULL in kinds)


def require_shared_rows(base_model: str) -> None:
    """Refuse ``sft.packing`` if a layer's state after one demonstration would reach the next one in its row.

    Args:
        base_model: A folder or a Hub id; only its configuration is read.

    Raises:
        UsageError: The model has layers that carry a state, or its configuration cannot be read.
    """
    with reading_base(base_model), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_model))
    if needs_own_rows(model):
        raise UsageError(
            f"sft.packing: layers of {base_model} carry a state from token to token, which would reach the next "
            "demonstration in a row; leave it out"
        )


def needs_own_rows(model: Any) -> bool:
    """Whether a row may hold only one sequence, because a layer carries a state or takes another kind of mask."""
    kinds = set(getattr(model.config, "layer_types", None) or ())
    return bool(kinds - {_FULL, _SLIDING}) or model._is_stateful
