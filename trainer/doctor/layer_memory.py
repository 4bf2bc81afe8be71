"""What the layers of a base model keep for a backward pass, in bytes a token.

Formulas of the layers' shape, derived from what PyTorch keeps of Qwen2, Llama and Qwen3.5 layers with adapters on
every linear layer; tests compare them with the allocator.
"""

from dataclasses import dataclass

from trainer.config.sections import PolicyConfig
from trainer.doctor.model_shape import ModelShape

FLOAT32, BFLOAT16 = 4, 2
"""Bytes of a number."""
_DELTA_CHUNK = 64
"""Tokens of which Transformers' gated delta rule computes every pair."""


@dataclass(frozen=True, kw_only=True)
class LayerBytes:
    """Bytes a token."""

    together: float
    """That all layers keep."""
    largest: float
    """That the largest layer keeps."""
    in_flight: float
    """That a pass needs in addition, in whatever layer it is."""


def dtype_bytes(policy: PolicyConfig) -> int:
    """Bytes of a number of the base."""
    return FLOAT32 if policy.dtype == "float32" else BFLOAT16


def fused_layer_bytes(shape: ModelShape, policy: PolicyConfig, row_width: int) -> LayerBytes:
    """Of `trainer.model.decoder.layer`, whose mask all layers share."""
    inner, heads = shape.served.intermediate_size, shape.attention_layers
    is_grouped = heads.kv_size < heads.query_size
    layer = (
        4 * shape.served.hidden_size  # both norms' inputs and outputs
        + 4 * heads.query_size  # queries, keys, values and the output of attention
        + is_grouped * heads.kv_size  # keys before they are repeated, in a tensor with the queries
        + 3 * inner  # gate and up, and their product
        + 7 * policy.lora_rank
    )
    size = dtype_bytes(policy)
    return LayerBytes(
        together=shape.num_layers * layer * size,
        largest=layer * size,
        in_flight=(3 * inner + row_width) * size,
    )


def layer_bytes(shape: ModelShape, policy: PolicyConfig, row_width: int) -> LayerBytes:
    """Of Transformers' and PEFT's layers."""
    size = dtype_bytes(policy)
    # Autocast computes matrix products in bfloat16 whatever the dtype of the weights.
    product = BFLOAT16 if policy.autocast else size
    hidden, inner = shape.served.hidden_size, shape.served.intermediate_size
    attention = shape.attention_layers.query_size
    if size == product == FLOAT32:
        # Modules with the same input share it.
        adapter_inputs = (2 * hidden + inner) * FLOAT32
    else:
        # PEFT casts the input for each module; autocast casts that again, and keeps the second copy.
        adapter_inputs = (5 * hidden + attention + inner) * (
            product if policy.autocast else FLOAT32
        )
    layer = (
        2 * hidden * FLOAT32  # both norms' inputs
        + adapter_inputs
        + 4 * attention * product  # queries, keys, values and the output of attention
        + 3 * inner * product  # gate, its SiLU, and up
        + 7 * policy.lora_rank * product
        # The attention mask of each layer; rows of one sequence need none.
        + (0 if shape.needs_own_rows else row_width * product)
    )
    delta_rule = _delta_rule_bytes(shape, product)
    return LayerBytes(
        together=shape.num_layers * layer + shape.num_delta_layers * delta_rule,
        largest=layer + delta_rule,
        in_flight=2 * inner * product,
    )


def _delta_rule_bytes(shape: ModelShape, size: int) -> float:
    """What a layer with the gated delta rule keeps beyond what `layer_bytes` has for attention.

    In plain PyTorch, as Transformers computes it without the package flash-linear-attention: some 17 float32 and 3
    numbers of the model's dtype a value, and 4.6 for each pair of tokens of a chunk and head.
    """
    values = (17 * FLOAT32 + 3 * size) * shape.delta_value_size
    pairs = 4.6 * FLOAT32 * _DELTA_CHUNK * shape.delta_num_heads
    return values + pairs + 2 * shape.delta_channels * size
