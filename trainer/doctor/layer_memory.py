"""Computes what the layers of a base model keep for the backward pass, in bytes per token.

The formulas use the sizes of the layers. They were derived from what PyTorch keeps for layers of Qwen2, Llama and
Qwen3.5 with adapters on every linear layer; tests compare them with the allocator.
"""

from dataclasses import dataclass

from trainer.config.sections import PolicyConfig
from trainer.doctor.model_shape import ModelShape

FLOAT32, BFLOAT16 = 4, 2
"""Bytes of a number."""
_DELTA_CHUNK = 64
"""Tokens of a chunk: Transformers' gated delta rule computes with every pair of tokens in it."""


@dataclass(frozen=True, kw_only=True)
class LayerBytes:
    """Memory of the layers, in bytes per token."""

    together: float
    """What all layers keep together."""
    largest: float
    """What the largest layer keeps."""
    in_flight: float
    """What a pass needs in addition while it computes a layer."""


def dtype_bytes(policy: PolicyConfig) -> int:
    """Bytes of a number in the base's dtype."""
    return FLOAT32 if policy.dtype == "float32" else BFLOAT16


def fused_layer_bytes(shape: ModelShape, policy: PolicyConfig, row_width: int) -> LayerBytes:
    """The memory of `trainer.model.decoder.layer`, in which all layers share one mask."""
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
    """The memory of Transformers' layers with PEFT's adapters."""
    size = dtype_bytes(policy)
    # Autocast computes matrix products in bfloat16 whatever the dtype of the weights.
    product = BFLOAT16 if policy.autocast else size
    hidden, inner = shape.served.hidden_size, shape.served.intermediate_size
    attention = shape.attention_layers.query_size
    if size == product == FLOAT32:
        # Modules with the same input share it.
        adapter_inputs = (2 * hidden + inner) * FLOAT32
    else:
        # PEFT casts the input for each module; autocast casts it again and keeps the second copy.
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

    This is for plain PyTorch, which Transformers uses without the package flash-linear-attention. It keeps some 17
    float32 numbers and 3 of the model's dtype for each value, and, in each head, 4.6 float32 numbers for each pair of
    tokens in a chunk.
    """
    values = (17 * FLOAT32 + 3 * size) * shape.delta_value_size
    pairs = 4.6 * FLOAT32 * _DELTA_CHUNK * shape.delta_num_heads
    return values + pairs + 2 * shape.delta_channels * size
