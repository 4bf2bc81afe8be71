"""What AsyncGRPOTrainer needs to run on a CPU and to read the tiny model's answers."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any


def chat_tokenizer(model: Path) -> Any:
    """A tokenizer with the response template by which the asynchronous trainer reads an answer."""
    from transformers import AutoTokenizer

    from regime_w import build_prompt

    tokenizer = AutoTokenizer.from_pretrained(model)
    _, after_question = build_prompt("", "\0").split("\0")
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": after_question,
        "fields": {
            "content": {
                "close_pattern": re.escape(tokenizer.eos_token) + r"\s*",
                "content": "text",
            }
        },
    }
    return tokenizer


def make_async_run_on_cpu() -> None:
    """Replace the two parts of the asynchronous trainer that need CUDA.

    The trainer asks for the GPU's peak FLOPS for a metric; here it gets None. Its tree attention is FlashAttention 3
    from the Hub; here it is PyTorch's attention with an equivalent mask, which is made once for all layers.
    """
    import torch
    from trl.experimental.async_grpo import async_grpo_trainer, packing

    async_grpo_trainer.get_peak_flops_per_device = lambda accelerator, dtype: None

    made: dict[str, Any] = {}

    def mask_of(paths: torch.Tensor, ends_q: torch.Tensor, ends_k: torch.Tensor) -> torch.Tensor:
        """[N, N] which packed tokens each token attends to: its segment's path, up to the token itself."""
        if made.get("paths") is not paths:
            num_tokens = int(ends_q[-1])
            mask = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
            for (q0, q1), (k0, k1) in zip(
                pairwise(ends_q.tolist()), pairwise(ends_k.tolist()), strict=True
            ):
                mask[q0:q1, paths[k0:k1]] = True
            made.update(paths=paths, mask=mask.tril())
        found: torch.Tensor = made["mask"]
        return found

    def tree_attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: object,
        *,
        tree_kv_index: torch.Tensor,
        tree_cu_seqlens_q: torch.Tensor,
        tree_cu_seqlens_k: torch.Tensor,
        scaling: float | None = None,
        **ignored: object,
    ) -> tuple[torch.Tensor, None]:
        out = torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask_of(tree_kv_index, tree_cu_seqlens_q, tree_cu_seqlens_k),
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out.transpose(1, 2), None

    packing.tree_attention = tree_attention
