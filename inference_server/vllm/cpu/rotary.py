"""Corrects vLLM 0.32's rotary embeddings on a CPU for models that pass heads as a separate dimension.

The CPU kernel takes ``[T, heads · size]``. Given ``[T, heads, size]``, as LFM2's attention passes it, it rotates
only the first T rows, as if there were one head; the GPU kernel takes both shapes.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

Rotary = Callable[..., tuple[Tensor, Tensor | None]]


def install() -> None:
    """Replace vLLM's method in this process."""
    original = RotaryEmbedding.forward_cpu
    if not hasattr(original, "__wrapped__"):
        RotaryEmbedding.forward_cpu = with_flat_heads(original)


def with_flat_heads(original: Rotary) -> Rotary:
    """Wraps vLLM's method ``original``: passes each token's heads side by side, and restores the shape of the result."""

    @wraps(original)
    def apply(
        self: Any, positions: Tensor, query: Tensor, key: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if query.dim() == 2:
            return original(self, positions, query, key)
        turned_query, turned_key = original(
            self, positions, query.flatten(1), None if key is None else key.flatten(1)
        )
        return (
            turned_query.view_as(query),
            None if key is None or turned_key is None else turned_key.view_as(key),
        )

    return apply
