"""What the layers of a base model see of the tokens before, and whether prefix trees can be computed with them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.errors import UsageError
from trainer.model.base_files import reading_base
from trainer.model.batches.batch import TokenRows

_FULL, _SLIDING = "full_attention", "sliding_attention"
"""Transformers' names in ``layer_types``, and of the masks that models with both take."""
_CAPPED = (
    *("attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap"),
    *("logit_scale", "logits_scaling", "lm_head_multiplier"),
)
"""Settings of models that change scores or logits in ways that the trainer does not compute."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What the layers of a base model see of the tokens before a token.

    In a prefix tree these are its ancestors, and an ancestor's distance is the difference of the positions: full
    attention and sliding windows are masks. A layer that carries a state from token to token (linear attention,
    convolutions) sees what stands to the left in its row; such a model's rows hold one sequence each.
    """

    shares_prefixes: bool = True
    """Whether several sequences may share the tokens of a common prefix in a row."""
    window: int | None = None
    """Tokens that a layer with a sliding window attends to, its own included; None where no layer has one."""
    is_mixed: bool = False
    """Whether other layers attend to everything before."""

    def inputs(self, rows: TokenRows) -> dict[str, Any]:
        """Positions and masks as the models of Transformers take them."""
        if not self.shares_prefixes:
            # One sequence a row, padded on the right, is what they assume without either. Padding comes after
            # every token that is read.
            return {}
        return {"position_ids": rows.position_ids, "attention_mask": self._masks(rows)}

    def _masks(self, rows: TokenRows) -> Tensor | dict[str, Tensor]:
        """[R, 1, W, W] bool of each kind of layer."""
        if self.window is None:
            return rows.attention_mask
        windowed = rows.windowed_mask(self.window)
        return {_FULL: rows.attention_mask, _SLIDING: windowed} if self.is_mixed else windowed


def attention_of(model: Any, base_model: str) -> Attention:
    """What a base model's layers see.

    Args:
        model: Transformers' model, once it is loaded.
        base_model: Its name, for errors.

    Raises:
        UsageError: It scales its scores or logits, or its attention takes no mask of a tree.
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
    """Refuse ``sft.packing`` where the state of one demonstration would reach the next one in its row.

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
    """Whether each row of a micro-batch holds one sequence: a layer carries a state, or has a mask of its own kind."""
    kinds = set(getattr(model.config, "layer_types", None) or ())
    return bool(kinds - {_FULL, _SLIDING}) or model._is_stateful
