"""The forward pass of a Llama-like decoder, in few operations.

Transformers computes a layer in many small steps, and the GPU waits for the launch of each. In a layer's forward
pass, recomputation and backward pass, more than half the launches were copies, casts and products with one number
per channel. This module computes the same, with the steps' gradients written out. An operation that rounds to the
model's dtype does so only once, at its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from trainer.model.decoder.adapter_copies import Adapter, AdapterCopies
from trainer.model.decoder.fused import attention_heads, swiglu
from trainer.model.decoder.lora_products import SharedInput, shared_input
from trainer.model.decoder.norm import RMSNorm
from trainer.model.decoder.row_attention import QueryBlock, query_blocks, row_attention

KNOWN_LAYERS = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)
"""Layers whose arithmetic is that of `_hidden`."""


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What all layers of a pass share."""

    cos: Tensor
    """[R, W, 1, D]"""
    sin: Tensor
    """[R, W, 1, D], with the first half negated; see `attention_heads`."""
    blocks: tuple[QueryBlock, ...]


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer's frozen parts."""

    qkv: SharedInput
    o: SharedInput
    gate_up: SharedInput
    down: SharedInput
    before_attention: RMSNorm
    before_mlp: RMSNorm
    head_norm: RMSNorm | None
    """The norm of each query and key head, if the model has one."""
    num_query_heads: int
    num_key_heads: int
    scale: float

    @property
    def groups(self) -> tuple[SharedInput, ...]:
        """The groups of layers that share an input, in the order of a pass's copies."""
        return self.qkv, self.o, self.gate_up, self.down


class Decoder:
    """A frozen decoder with LoRA adapters, from token ids to the last hidden states."""

    def __init__(self, body: Any, layers: Sequence[_Layer], *, checkpointing: bool):
        """See `decoder_of`."""
        self._body, self._layers = body, layers
        self._norm = RMSNorm(body.norm.weight, body.norm.variance_epsilon)
        self._checkpointing = checkpointing
        self._copies: dict[str, AdapterCopies] = {}

    def __call__(
        self, role: str, token_ids: Tensor, position_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """[R · W, H] hidden states, row after row.

        Args:
            role: The adapter to compute with.
            token_ids: [R, W]
            position_ids: [R, W]
            attention_mask: [R, 1, W, W] bool.
        """
        if role not in self._copies:
            groups = [group for layer in self._layers for group in layer.groups]
            adapted, num_rows = zip(*((g.adapted, g.num_low) for g in groups), strict=True)
            dtype = groups[0].weight.dtype
            self._copies[role] = AdapterCopies(adapted, num_rows, role, dtype)
        copies = self._copies[role].for_pass()
        embedded = self._body.embed_tokens(token_ids)
        cos, sin = (t.unsqueeze(2) for t in self._body.rotary_emb(embedded, position_ids))
        low, high = sin.chunk(2, dim=-1)
        shared = _Pass(
            cos=cos,
            sin=torch.cat([-low, high], dim=-1),
            blocks=query_blocks(attention_mask, embedded.dtype),
        )
        hidden: Tensor = embedded.flatten(0, 1)
        for i, layer in enumerate(self._layers):
            compute = partial(_hidden, layer, copies[4 * i : 4 * i + 4], shared)
            if self._checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(compute, hidden, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = compute(hidden)
        return self._norm(hidden)


def decoder_of(body: Any, *, checkpointing: bool) -> Decoder | None:
    """The decoder of a base model's body; None if a part of the body is not known here.

    Args:
        body: The part of the model from token ids to hidden states; it may contain PEFT's modules.
        checkpointing: Whether each layer is recomputed in the backward pass.
    """
    if body.config._attn_implementation != "sdpa":
        return None
    layers = [_layer(layer) for layer in body.layers]
    known = [layer for layer in layers if layer is not None]
    return Decoder(body, known, checkpointing=checkpointing) if len(known) == len(layers) else None


def _layer(layer: Any) -> _Layer | None:
    if type(layer) not in KNOWN_LAYERS:
        return None
    attention, mlp = layer.self_attn, layer.mlp
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    head_norms = [n for n in (getattr(attention, f"{x}_norm", None) for x in "qk") if n is not None]
    if not isinstance(mlp.act_fn, nn.SiLU) and type(mlp.act_fn).__name__ != "SiLUActivation":
        return None
    if any(isinstance(module, LoraLayer) for module in (*norms, *head_norms)):
        return None
    widened = _is_widened(mlp.up_proj.weight)
    qkv = shared_input((attention.q_proj, attention.k_proj, attention.v_proj), widened=widened)
    # Attention's output has no free columns; a widened product would have to copy it.
    o = shared_input((attention.o_proj,), widened=False)
    gate_up = shared_input((mlp.gate_proj, mlp.up_proj), widened=widened)
    down = shared_input((mlp.down_proj,), widened=widened)
    if qkv is None or o is None or gate_up is None or down is None:
        return None
    if o.bias is not None or down.bias is not None:
        return None
    head_dim = attention.head_dim
    num_query_heads, num_key_heads = (
        len(m.weight) // head_dim for m in (attention.q_proj, attention.k_proj)
    )
    head_norm = None
    if head_norms:
        counts = (num_query_heads, num_key_heads)
        weight = torch.cat(
            [n.weight.expand(k, -1) for n, k in zip(head_norms, counts, strict=True)]
        )
        head_norm = RMSNorm(weight, head_norms[0].variance_epsilon)
    before_attention, before_mlp = (RMSNorm(n.weight, n.variance_epsilon) for n in norms)
    return _Layer(
        qkv=qkv,
        o=o,
        gate_up=gate_up,
        down=down,
        before_attention=before_attention,
        before_mlp=before_mlp,
        head_norm=head_norm,
        num_query_heads=num_query_heads,
        num_key_heads=num_key_heads,
        scale=attention.scaling,
    )


def _is_widened(weight: Tensor) -> bool:
    """Whether the base's products include the adapters'; see `lora_products`."""
    return weight.is_cuda


def _hidden(
    layer: _Layer, adapters: Sequence[Adapter | None], shared: _Pass, hidden: Tensor
) -> Tensor:
    """[T, H] the hidden states after a layer."""
    normed, hidden = layer.before_attention.with_residual(hidden, layer.qkv.num_free)
    qkv = layer.qkv(normed, adapters[0])
    num_rows, width, _, head_dim = shared.cos.shape
    heads = qkv.view(num_rows, width, -1, head_dim)
    num_heads = (layer.num_query_heads, layer.num_key_heads)
    values = None
    if layer.head_norm is not None:
        heads, values = heads.split([sum(num_heads), layer.num_key_heads], dim=2)
        heads = layer.head_norm(heads)
    q, k, v = attention_heads(heads, values, shared.cos, shared.sin, num_heads)
    attended = row_attention(q, k, v, shared.blocks, layer.scale)
    hidden = layer.o(attended.transpose(1, 2).reshape(len(hidden), -1), adapters[1], hidden)
    normed, hidden = layer.before_mlp.with_residual(hidden, layer.gate_up.num_free)
    gate_up = layer.gate_up(normed, adapters[2])
    return layer.down(swiglu(gate_up, layer.down.num_free), adapters[3], hidden)
